-- The thread and run that a run works for, where another agent's run asked for it: the first of those above.
ALTER TABLE projected_run ADD COLUMN root text, ADD COLUMN root_run text;

CREATE OR REPLACE VIEW runs AS
SELECT tenant, thread, run, kind, coalesce(agent, '') AS agent, coalesce(model, '') AS model, status,
    coalesce(reason, '') AS reason, coalesce(forked, false) AS forked, asked, started, finished, model_calls,
    tool_calls, prompt_tokens, completion_tokens, cached_tokens, coalesce(root, '') AS root,
    coalesce(root_run, '') AS root_run
FROM projection JOIN projected_run USING (build) WHERE projection.name = 'runs';
