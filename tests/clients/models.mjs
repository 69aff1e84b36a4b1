// The AI SDK's client of OpenAI-compatible servers against a bridge.
//   node models.mjs SCENARIO '{"baseURL": …, "model": …}'
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, isStepCount, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [scenario, given] = process.argv.slice(2);
const { baseURL, model: name, prompt } = JSON.parse(given);
const provider = createOpenAICompatible({
  name: "ostinato",
  baseURL,
  apiKey: "k",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const asked = { model: provider(name), prompt, maxRetries: 0, temperature: 0 };
const tell = (what) => console.log(JSON.stringify(what));
const calculator = (used) =>
  tool({
    description: "Work out an arithmetic expression.",
    inputSchema: z.object({ expression: z.string() }),
    execute: async ({ expression }) => {
      used.push(expression);
      return "77";
    },
  });

const scenarios = {
  async text() {
    const whole = await generateText({ ...asked, maxOutputTokens: 20 });
    const stream = streamText({ ...asked, maxOutputTokens: 20 });
    const types = new Set();
    let said = "";
    for await (const part of stream.fullStream) {
      types.add(part.type);
      if (part.type === "text-delta") said += part.text;
    }
    tell({
      whole: whole.text,
      said,
      usage: [whole.usage, await stream.usage],
      reasons: [whole.finishReason, await stream.finishReason],
      types: [...types],
      responseId: (await stream.response).id,
    });
  },

  async tools() {
    const used = [];
    const stopWhen = (isStepCount ?? stepCountIs)(3);
    const stream = streamText({ ...asked, tools: { calculator: calculator(used) }, stopWhen });
    const parts = [];
    for await (const part of stream.fullStream) parts.push(part.type);
    const calls = (await stream.steps).flatMap((step) => step.toolCalls);
    tell({ used, parts, calls, text: await stream.text });
  },

  /** One step, whose calls nobody carries out. */
  async once() {
    const look = tool({ description: "Look.", inputSchema: z.object({ at: z.string().optional() }) });
    const stream = streamText({ ...asked, tools: { look } });
    let reasoning = "";
    for await (const part of stream.fullStream) if (part.type === "reasoning-delta") reasoning += part.text;
    tell({ reasoning, text: await stream.text, reason: await stream.finishReason, calls: await stream.toolCalls });
  },

  async object() {
    const schema = z.object({ name: z.enum(["Ann", "Bob"]), here: z.boolean() });
    const { object } = await generateObject({ ...asked, schema, maxOutputTokens: 60 });
    tell({ object });
  },

  async refused() {
    try {
      await generateText(asked);
      tell({ error: null });
    } catch (error) {
      tell({ error: error.name, status: error.statusCode, message: error.message });
    }
  },

  async broken() {
    const errors = [];
    const parts = [];
    const stream = streamText({ ...asked, onError: ({ error }) => errors.push(String(error?.message ?? error)) });
    for await (const part of stream.fullStream) parts.push(part.type);
    tell({ errors, parts });
  },
};

await scenarios[scenario]();
