-- The thread and run that a run works for, where another agent's run asked for it: the first of those above.
ALTER TABLE projected_run ADD COLUMN root text, ADD COLUMN root_run text;
CREATE INDEX projected_run_root ON projected_run (build, tenant, root) WHERE root IS NOT NULL;
