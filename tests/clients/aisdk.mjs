// `useChat` without React: the AI SDK's own chat and transport against a bridge.
//   node aisdk.mjs SCENARIO '{"api": …, "id": …, "text": …}'
// What happens on the way is told a line at a time; the last line is what the chat came to.
import {
  AbstractChat,
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
  readUIMessageStream,
} from "ai";

const [scenario, given] = process.argv.slice(2);
const { api, id, text, ...options } = JSON.parse(given);
const tell = (what) => console.log(JSON.stringify(what));
const plain = (message) => JSON.parse(JSON.stringify(message));

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => (this.messages = [...this.messages, message]);
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (index, message) => {
    this.messages = this.messages.map((one, at) => (at === index ? this.snapshot(message) : one));
    this.changed?.(message);
  };
  snapshot = (thing) => structuredClone(thing);
}

class Chat extends AbstractChat {
  constructor({ messages = [], ...init } = {}) {
    const state = new State();
    state.messages = messages;
    const transport = new DefaultChatTransport({ api, fetch: init.fetch, body: init.body });
    super({ ...init, id, transport, state });
    this.known = state;
  }

  /** Sends what follows by another `fetch`. */
  over(fetch) {
    this.transport.fetch = fetch;
  }
}

const ends = (chat) => ({
  messages: plain(chat.messages),
  status: chat.status,
  error: chat.error?.message ?? null,
});

const settled = async (chat) => {
  while (chat.status === "submitted" || chat.status === "streaming") await new Promise((next) => setTimeout(next, 10));
};

/** Everything that a response brings, as it comes. */
async function raw(response) {
  let body = "";
  const decoder = new TextDecoder("utf-8", { fatal: true });
  for await (const piece of response.body) body += decoder.decode(piece, { stream: true });
  return body + decoder.decode();
}

const stored = async () => (await fetch(`${api}/${id}/messages`)).json();

const scenarios = {
  async ask() {
    const finished = [];
    const data = [];
    const chat = new Chat({ onFinish: (end) => finished.push(end), onData: (part) => data.push(part) });
    await chat.sendMessage({ text });
    for (const more of options.more ?? []) await chat.sendMessage({ text: more });
    const [{ isAbort, isError, finishReason }] = finished;
    tell({ ...ends(chat), isAbort, isError, finishReason, data, stored: await stored() });
  },

  async approve() {
    const chat = new Chat({ sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses });
    await chat.sendMessage({ text });
    const waits = { messages: plain(chat.messages), stored: await stored() };
    const resumed = await fetch(`${api}/${id}/stream`);
    const call = chat.lastMessage.parts.find((part) => part.state === "approval-requested");
    await chat.addToolApprovalResponse({ id: call.approval.id, approved: options.approved, reason: options.reason });
    await settled(chat);
    tell({ ...ends(chat), waits, resumed: resumed.status, stored: await stored() });
  },

  /** Answers whatever is asked, one after the other. */
  async approveAll() {
    const chat = new Chat({ sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses });
    await chat.sendMessage({ text });
    let asked = 0;
    const open = () => chat.lastMessage.parts.find((part) => part.state === "approval-requested");
    for (let call = open(); call; call = open()) {
      asked += 1;
      await chat.addToolApprovalResponse({ id: call.approval.id, approved: options.approved });
      await settled(chat);
    }
    tell({ ...ends(chat), asked, stored: await stored() });
  },

  async provide() {
    const called = [];
    const chat = new Chat({
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall }) => called.push(toolCall),
    });
    await chat.sendMessage({ text });
    const waits = plain(chat.messages);
    const [call] = called;
    await chat.addToolOutput({ tool: call.toolName, toolCallId: call.toolCallId, output: options.output });
    await settled(chat);
    tell({ ...ends(chat), called: plain(called), waits });
  },

  async stop() {
    const finished = [];
    const chat = new Chat({ onFinish: (end) => finished.push(end) });
    let asked;
    chat.known.changed = (message) => {
      if (message.parts.some((part) => part.text)) asked ??= fetch(`${api}/${id}/stop`, { method: "POST" });
    };
    await chat.sendMessage({ text });
    const [{ isAbort, isError }] = finished;
    const resumed = await fetch(`${api}/${id}/stream`);
    tell({ ...ends(chat), isAbort, isError, stopped: (await asked).status, resumed: resumed.status });
  },

  /** A client that goes away in the middle, and two that come back. */
  async resume() {
    const chat = new Chat();
    let dropped;
    chat.known.changed = (message) => {
      if (message.parts.some((part) => part.text)) dropped ??= chat.stop();
    };
    await chat.sendMessage({ text });
    await dropped;
    const partial = plain(chat.messages);
    const [first, second] = await Promise.all([fetch(`${api}/${id}/stream`), fetch(`${api}/${id}/stream`)]);
    let answered = 0;
    const counting = async (...request) => {
      const response = await fetch(...request);
      answered += 1;
      if (answered === 2) tell("resuming");
      return response;
    };
    chat.over(counting);
    const opened = new Chat({ messages: await stored(), fetch: counting });
    await Promise.all([opened.resumeStream(), chat.resumeStream()]);
    const bytes = [await raw(first), await raw(second)];
    tell({ ...ends(chat), partial, opened: plain(opened.messages), same: bytes[0] === bytes[1], bytes: bytes[0] });
  },

  /** The chunks as they are, read by the function for that. */
  async read() {
    const transport = new DefaultChatTransport({ api });
    const message = { id: "u1", role: "user", parts: [{ type: "text", text }] };
    const stream = await transport.sendMessages({ chatId: id, messages: [message], trigger: "submit-message" });
    const [kept, read] = stream.tee();
    const chunks = [];
    const reading = (async () => {
      for await (const chunk of kept) chunks.push(chunk);
    })();
    let last;
    for await (const one of readUIMessageStream({ stream: read })) last = one;
    await reading;
    tell({ chunks, message: plain(last) });
  },

  async regenerate() {
    const chat = new Chat();
    await chat.sendMessage({ text });
    const [, first] = plain(chat.messages);
    await chat.regenerate();
    tell({ ...ends(chat), first });
  },
};

await scenarios[scenario]();
