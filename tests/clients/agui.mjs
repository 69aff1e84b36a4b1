// AG-UI's own client against a bridge.
//   node agui.mjs SCENARIO '{"url": …, "threadId": …, "text": …}'
import { buildResumeArray, HttpAgent } from "@ag-ui/client";

const [scenario, given] = process.argv.slice(2);
const { url, threadId, text, ...options } = JSON.parse(given);
const tell = (what) => console.log(JSON.stringify(what));
const warnings = [];
console.warn = (...what) => warnings.push(what.map(String).join(" "));
console.error = (...what) => warnings.push(what.map(String).join(" "));

const user = (content) => ({ id: `u${Math.random()}`, role: "user", content });

async function run(agent, parameters = {}) {
  const events = [];
  const { newMessages, result } = await agent.runAgent(parameters, {
    onEvent: ({ event }) => void events.push(structuredClone(event)),
  });
  return { events, newMessages, result: result ?? null };
}

const scenarios = {
  async ask() {
    const agent = new HttpAgent({ url, threadId, initialMessages: [user(text)], initialState: options.state ?? {} });
    const runs = [await run(agent, { runId: "their-run" })];
    for (const more of options.more ?? []) {
      agent.addMessage(user(more));
      runs.push(await run(agent));
    }
    const opened = new HttpAgent({ url, threadId });
    const history = await run(opened);
    tell({ runs, messages: agent.messages, state: agent.state, opened: opened.messages, history, warnings });
  },

  async interrupt() {
    const agent = new HttpAgent({ url, threadId, initialMessages: [user(text)] });
    const first = await run(agent);
    const open = agent.pendingInterrupts;
    const answers = Object.fromEntries(open.map((one) => [one.id, options.answer]));
    const second = await run(agent, { resume: buildResumeArray(open, answers) });
    tell({ first, open, second, left: agent.pendingInterrupts, messages: agent.messages, warnings });
  },

  async tools() {
    const agent = new HttpAgent({ url, threadId, initialMessages: [user(text)] });
    const first = await run(agent, { tools: options.tools });
    const [toolCallId] = first.events.at(-1).outcome.pendingToolCallIds;
    agent.addMessage({ id: "t1", role: "tool", toolCallId, content: options.content });
    const second = await run(agent, { tools: options.tools });
    tell({ first, second, messages: agent.messages, warnings });
  },

  async fail() {
    const agent = new HttpAgent({ url, threadId, initialMessages: [user(text)] });
    const events = [];
    let error = null;
    try {
      await agent.runAgent({}, { onEvent: ({ event }) => void events.push(structuredClone(event)) });
    } catch (problem) {
      error = String(problem.message);
    }
    tell({ events, error, warnings });
  },

  async stop() {
    const agent = new HttpAgent({ url, threadId, initialMessages: [user(text)] });
    let asked;
    const events = [];
    await agent.runAgent({}, {
      onEvent: ({ event }) => void events.push(structuredClone(event)),
      onTextMessageContentEvent: () => {
        asked ??= fetch(`${url}/threads/${threadId}/stop`, { method: "POST" });
      },
    });
    tell({ events, status: (await asked).status, warnings });
  },
};

await scenarios[scenario]();
