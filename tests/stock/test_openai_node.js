// The API's official SDK (openai, with undici for Unix sockets) on the daemon's HTTP. Arguments:
// daemon, folder with node_modules.
'use strict';

const assert = require('assert');
const { spawn } = require('child_process');
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');

const [binary, modules] = process.argv.slice(2);
const TOKEN = 'local-token-0123456789abcdef';
let OpenAI, undici;
try {
  OpenAI = require(require.resolve('openai', { paths: [modules] }));
  undici = require(require.resolve('undici', { paths: [modules] }));
} catch (error) {
  console.log(`skipped: ${error.code} (openai, undici)`);
  process.exit(77);
}

const completion = (text, reason, more) => ({
  id: 'cmpl-1', object: 'text_completion', created: 1700000000, model: 'm',
  choices: [{ text, index: 0, logprobs: null, finish_reason: reason }], ...more,
});
const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };

// The upstream: what it does follows from the model's name.
const seen = [];
const closed = [];
let onClosed = () => {};

function refuse(response, status, headers, error) {
  response.writeHead(status, { 'content-type': 'application/json', 'x-request-id': 'req-upstream', ...headers });
  response.end(JSON.stringify({ error }));
}

function stream(request, response) {
  const { model, prompt } = request;
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const send = (data) => response.write(`data: ${JSON.stringify(data)}\n\n`);
  if (model === 'endless') {
    send(completion('first', null));
  } else if (model === 'cut') {
    send(completion('first', null));
    setImmediate(() => response.destroy());
  } else if (model === 'unfinished') {
    send(completion('first', null));
    response.end();
  } else if (model === 'failing') {
    send(completion('first', null));
    send({ error: { message: 'the model fell over', type: 'server_error', param: null, code: 'oops' } });
    response.end();
  } else if (model === 'flood') {
    const words = Array.from({ length: 2000 }, (_, i) => `${i} ${'x'.repeat(8000)}`);
    const next = () => {
      while (words.length)
        if (!send(completion(words.shift(), null))) {
          response.once('drain', next);
          return;
        }
      send(completion('', 'stop'));
      response.end('data: [DONE]\n\n');
    };
    next();
  } else {
    for (const word of prompt.split(' ')) send(completion(word, null, { usage: null }));
    send(completion('', 'stop', { usage: null }));
    if (request.stream_options?.include_usage) send({ ...completion(), choices: [], usage });
    response.end('data: [DONE]\n\n');
  }
}

const upstream = http.createServer((incoming, response) => {
  incoming.setEncoding('utf8');
  let body = '';
  incoming.on('data', (piece) => (body += piece));
  incoming.on('end', () => {
    const request = JSON.parse(body);
    seen.push({ headers: incoming.headers, request });
    response.on('close', () => {
      if (!response.writableFinished) {
        closed.push(request.model);
        onClosed();
      }
    });
    if (request.model === 'silent') return;
    if (request.model === 'limited')
      refuse(response, 429, { 'retry-after': '1' }, { message: 'slow down', type: 'requests', param: null, code: 'rate_limit_exceeded' });
    else if (request.model === 'broke')
      refuse(response, 429, {}, { message: 'no credit', type: 'insufficient_quota', param: null, code: 'insufficient_quota' });
    else if (request.model === 'unauthorized')
      refuse(response, 401, {}, { message: 'Incorrect API key', type: 'invalid_request_error', param: null, code: 'invalid_api_key' });
    else if (request.model === 'down')
      refuse(response, 503, { 'x-should-retry': 'false' }, { message: 'overloaded', type: 'server_error', param: null, code: null });
    else if (request.stream)
      stream(request, response);
    else {
      response.writeHead(200, { 'content-type': 'application/json', 'x-request-id': 'req-upstream' });
      response.end(JSON.stringify(completion(request.prompt, 'stop', { usage, extra_thing: [1] }), null, 1));
    }
  });
});

const wasClosed = (model) => new Promise((resolve) => {
  const look = () => closed.includes(model) && resolve();
  onClosed = look;
  look();
});

const failure = (promise) => promise.then(() => assert.fail('no error'), (error) => error);

async function texts(chunks) {
  const all = [];
  for await (const chunk of chunks) all.push(...chunk.choices.map((choice) => choice.text));
  return all;
}

const tests = {
  async unary({ client }) {
    const answer = await client.completions.create({ model: 'echo', prompt: 'a\0b é', max_tokens: 5 });
    assert.strictEqual(answer.choices[0].text, 'a\0b é');
    assert.strictEqual(answer.choices[0].finish_reason, 'stop');
    assert.deepStrictEqual(answer.usage, usage);
    assert.deepStrictEqual(answer.extra_thing, [1]);
    assert.match(answer._request_id, /^call-[0-9a-f]{16}$/);
  },
  async everyParameter({ client }) {
    const request = {
      model: 'echo', prompt: ['a', 'b'], best_of: 3, echo: true, frequency_penalty: 0.5,
      logit_bias: { 50256: -100 }, logprobs: 2, max_tokens: 9, n: 2, presence_penalty: -1, seed: 7,
      stop: ['x', 'y'], suffix: 's', temperature: 0.1, top_p: 0.9, user: 'u',
    };
    await client.completions.create({ ...request, top_k: 40 });
    assert.deepStrictEqual(seen.at(-1).request, { ...request, top_k: 40 });
  },
  async tokens({ client }) {
    for (const prompt of [[1, 2, 3], [[1], [2, 3]]]) {
      await client.completions.create({ model: 'echo', prompt });
      assert.deepStrictEqual(seen.at(-1).request.prompt, prompt);
    }
  },
  async response({ client }) {
    const { data, response, request_id } = await client.completions.create({ model: 'echo', prompt: 'x' }).withResponse();
    assert.strictEqual(data.choices[0].text, 'x');
    assert.strictEqual(response.headers.get('x-upstream-request-id'), 'req-upstream');
    assert.strictEqual(request_id, response.headers.get('x-request-id'));
  },
  async stream({ client }) {
    const chunks = await client.completions.create({ model: 'echo', prompt: 'one two three', stream: true });
    assert.deepStrictEqual(await texts(chunks), ['one', 'two', 'three', '']);
  },
  async usageOfAStream({ client }) {
    let last;
    const chunks = await client.completions.create({
      model: 'echo', prompt: 'x', stream: true, stream_options: { include_usage: true } });
    for await (const chunk of chunks) {
      if (chunk.choices.length) assert.strictEqual(chunk.usage, null);
      last = chunk;
    }
    assert.deepStrictEqual(last.usage, usage);
  },
  async manyAtOnce({ client }) {
    const answers = await Promise.all(Array.from({ length: 50 }, async (_, i) =>
      texts(await client.completions.create({ model: 'echo', prompt: `w ${i}`, stream: true }))));
    answers.forEach((answer, i) => assert.deepStrictEqual(answer, ['w', String(i), '']));
  },
  async theKeyIsIgnored({ client }) {
    await client.completions.create({ model: 'echo', prompt: 'x' });
    assert.strictEqual(seen.at(-1).headers.authorization, 'Bearer sk-stock');
  },
  async badRequest({ client }) {
    const error = await failure(client.completions.create({ model: 'echo', prompt: 'x', n: 1000 }));
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.strictEqual(error.type, 'invalid_request_error');
    assert.strictEqual(error.param, 'n');
    assert.strictEqual(error.code, 'invalid_request');
    assert.match(error.requestID, /^call-/);
  },
  async wrongTypes({ client }) {
    const error = await failure(client.completions.create({ model: 'echo', prompt: { a: 1 } }));
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.strictEqual(error.param, 'prompt');
  },
  async rateLimit({ client }) {
    const error = await failure(client.completions.create({ model: 'limited', prompt: 'x' }));
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.strictEqual(error.code, 'rate_limit_exceeded');
    assert.strictEqual(error.type, 'requests');
    assert.match(error.message, /slow down/);
    assert.strictEqual(error.headers.get('retry-after'), '1');
  },
  async retries({ client }) {
    // The SDK repeats what the daemon says may be repeated, after the time it says, and no other.
    const before = seen.length;
    const start = Date.now();
    await failure(client.completions.create({ model: 'limited', prompt: 'x' }, { maxRetries: 1 }));
    assert.ok(Date.now() - start >= 990);
    const again = seen.length;
    assert.ok(again > before + 1);
    await failure(client.completions.create({ model: 'broke', prompt: 'x' }, { maxRetries: 2 }));
    assert.strictEqual(seen.length, again + 1);
  },
  async unauthorized({ client }) {
    const error = await failure(client.completions.create({ model: 'unauthorized', prompt: 'x' }));
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.match(error.message, /ask its administrator/);
  },
  async unavailable({ client }) {
    const error = await failure(client.completions.create({ model: 'down', prompt: 'x' }));
    assert.ok(error instanceof OpenAI.InternalServerError);
    assert.strictEqual(error.status, 503);
  },
  async errorInAStream({ client }) {
    for (const [model, code] of [['failing', 'oops'], ['cut', 'stream_truncated'], ['unfinished', 'stream_truncated']]) {
      const chunks = await client.completions.create({ model, prompt: 'x', stream: true });
      const got = [];
      const error = await failure((async () => {
        for await (const chunk of chunks) got.push(chunk.choices[0].text);
      })());
      assert.deepStrictEqual(got, ['first'], model);
      assert.ok(error instanceof OpenAI.APIError, `${model}: ${error}`);
      assert.strictEqual(error.code, code);
    }
  },
  async abortClosesTheUpstream({ client }) {
    const chunks = await client.completions.create({ model: 'endless', prompt: 'x', stream: true });
    for await (const chunk of chunks) {
      assert.strictEqual(chunk.choices[0].text, 'first');
      break;
    }
    await wasClosed('endless');
  },
  async timeoutClosesTheUpstream({ client }) {
    const error = await failure(client.completions.create({ model: 'silent', prompt: 'x' }, { timeout: 300 }));
    assert.ok(error instanceof OpenAI.APIConnectionTimeoutError);
    await wasClosed('silent');
  },
  async slowReader({ client }) {
    const chunks = await client.completions.create({ model: 'flood', prompt: 'x', stream: true });
    for (let i = 0; i < 100; i++) await client.completions.create({ model: 'echo', prompt: 'x' });
    const numbers = (await texts(chunks)).filter((t) => t).map((t) => parseInt(t, 10));
    assert.deepStrictEqual(numbers, Array.from({ length: 2000 }, (_, i) => i));
  },
  async largePrompt({ client }) {
    const prompt = 'é'.repeat(1000000);
    const answer = await client.completions.create({ model: 'echo', prompt });
    assert.strictEqual(answer.choices[0].text, prompt);
    const error = await failure(client.completions.create({ model: 'echo', prompt: prompt.repeat(3) }));
    assert.strictEqual(error.status, 413, `${error} ${error.cause?.cause ?? error.cause}`);
  },
  async models({ client }) {
    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    assert.deepStrictEqual(models, ['echo', 'org/model']);
    assert.strictEqual((await client.models.retrieve('org/model')).id, 'org/model');
    assert.ok(await failure(client.models.retrieve('nothing')) instanceof OpenAI.NotFoundError);
  },
  async otherEndpoints({ client }) {
    const error = await failure(client.chat.completions.create({ model: 'echo', messages: [] }));
    assert.ok(error instanceof OpenAI.NotFoundError);
  },
  async wrongToken({ tcp, options }) {
    if (!tcp) return;
    const error = await failure(new OpenAI({ ...options, apiKey: 'sk-wrong' }).completions.create({ model: 'echo', prompt: 'x' }));
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.strictEqual(error.code, 'invalid_api_key');
  },
};

async function startDaemon(directory, baseUrl) {
  const write = (name, text) => {
    fs.writeFileSync(path.join(directory, name), text, { mode: 0o600 });
    return path.join(directory, name);
  };
  const socket = path.join(directory, 'openai.sock');
  const config = write('completiond.conf', `
[upstream fake]
base_url = ${baseUrl}
credential_file = ${write('key', 'sk-stock\n')}
models = echo org/model
models = [e]ndless [c]ut [u]nfinished [f]ailing [f]lood [s]ilent [l]imited [b]roke [u]nauthorized [d]own
max_retries = 0
[token test]
user = ${process.getuid()}
credential_file = ${write('token', `${TOKEN}\n`)}
`);
  const daemon = spawn(binary, ['--config', config, '--listen', path.join(directory, 'rpc.sock'),
    '--openai-listen', socket, '--openai-listen', '127.0.0.1:0'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const port = await new Promise((resolve, reject) => {
    let text = '';
    daemon.stderr.on('data', (piece) => {
      text += piece;
      process.stderr.write(piece);
      const found = text.match(/HTTP on 127\.0\.0\.1:(\d+)\n/);
      if (found) resolve(found[1]);
    });
    daemon.on('exit', () => reject(new Error('the daemon ended')));
  });
  return { daemon, socket, port };
}

async function runAll(name, context) {
  let failed = 0;
  for (const [test, run] of Object.entries(tests)) {
    try {
      await run(context);
      console.log(`ok - ${name} ${test}`);
    } catch (error) {
      failed++;
      console.log(`not ok - ${name} ${test}: ${error.stack}`);
    }
    closed.length = 0;
  }
  return failed;
}

async function main() {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stock.'));
  await new Promise((resolve) => upstream.listen(0, '127.0.0.1', resolve));
  const { daemon, socket, port } = await startDaemon(directory, `http://127.0.0.1:${upstream.address().port}/v1`);
  const dispatcher = new undici.Agent({ connect: { socketPath: socket } });
  const local = {
    baseURL: 'http://localhost/v1', apiKey: 'none', maxRetries: 0,
    fetch: undici.fetch, fetchOptions: { dispatcher },
  };
  const remote = { baseURL: `http://127.0.0.1:${port}/v1`, apiKey: TOKEN, maxRetries: 0 };

  let failed = await runAll('unix', { client: new OpenAI(local), options: local });
  failed += await runAll('tcp', { client: new OpenAI(remote), options: remote, tcp: true });
  await dispatcher.close();
  daemon.removeAllListeners('exit');
  const status = await new Promise((resolve) => {
    daemon.on('exit', (code) => resolve(code));
    daemon.kill('SIGTERM');
  });
  if (status !== 0) {
    failed++;
    console.log(`not ok - the daemon ended with status ${status}`);
  }
  fs.rmSync(directory, { recursive: true });
  process.exit(failed ? 1 : 0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
