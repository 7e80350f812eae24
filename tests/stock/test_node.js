// The stock Node client (@grpc/grpc-js with @grpc/proto-loader). Arguments: daemon, proto folder,
// folder with node_modules.
'use strict';

const assert = require('assert');
const { spawn } = require('child_process');
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');

const [binary, proto, modules] = process.argv.slice(2);
let grpc, loader;
try {
  grpc = require(require.resolve('@grpc/grpc-js', { paths: [modules] }));
  loader = require(require.resolve('@grpc/proto-loader', { paths: [modules] }));
} catch (error) {
  console.log(`skipped: ${error.code} (@grpc/grpc-js, @grpc/proto-loader)`);
  process.exit(77);
}

const completion = (text, reason) => ({
  id: 'cmpl-1', object: 'text_completion', created: 1700000000, model: 'm',
  choices: [{ text, index: 0, logprobs: null, finish_reason: reason }],
});

// The upstream: what it does follows from the model's name.
const closed = [];
let onClosed = () => {};
const upstream = http.createServer((request, response) => {
  let body = '';
  request.on('data', (piece) => (body += piece));
  request.on('end', () => {
    const { model, prompt, stream } = JSON.parse(body);
    response.on('close', () => {
      if (!response.writableFinished) {
        closed.push(model);
        onClosed();
      }
    });
    if (model === 'silent') return;
    if (model === 'refused') {
      response.writeHead(429, { 'content-type': 'application/json', 'x-should-retry': 'false' });
      response.end(JSON.stringify({ error: { message: '100 % é', type: 'requests', param: null, code: 'x' } }));
      return;
    }
    if (!stream) {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(completion(prompt, 'stop')));
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    if (model === 'endless') {
      response.write(`data: ${JSON.stringify(completion('first', null))}\n\n`);
      return;
    }
    const words = model === 'flood' ? Array.from({ length: 2000 }, (_, i) => `${i} ${'x'.repeat(8000)}`) : prompt.split(' ');
    const next = () => {
      while (words.length) {
        if (!response.write(`data: ${JSON.stringify(completion(words.shift(), null))}\n\n`)) {
          response.once('drain', next);
          return;
        }
      }
      response.end(`data: ${JSON.stringify(completion('', 'stop'))}\n\ndata: [DONE]\n\n`);
    };
    next();
  });
});

const wasClosed = (model) => new Promise((resolve) => {
  const look = () => closed.includes(model) && resolve();
  onClosed = look;
  look();
});

const texts = (call) => new Promise((resolve, reject) => {
  const all = [];
  call.on('data', (chunk) => all.push(chunk.choices[0].text));
  call.on('end', () => resolve(all));
  call.on('error', reject);
});

const tests = {
  async unary({ create }) {
    const answer = await create({ model: 'echo', prompt_string: 'a\0b é' });
    assert.strictEqual(answer.choices[0].text, 'a\0b é');
    assert.strictEqual(answer.choices[0].finish_reason, 'FINISH_REASON_STOP');
    assert.strictEqual(answer.created, '1700000000');
  },
  async stream({ client }) {
    const call = client.CreateStream({ model: 'echo', prompt_string: 'one two three' });
    assert.deepStrictEqual(await texts(call), ['one', 'two', 'three', '']);
  },
  async tenAtOnce({ client }) {
    const calls = Array.from({ length: 10 }, (_, i) =>
      texts(client.CreateStream({ model: 'echo', prompt_string: `w w ${i}` })));
    const answers = await Promise.all(calls);
    answers.forEach((answer, i) => assert.deepStrictEqual(answer, ['w', 'w', String(i), '']));
  },
  async errorWithDetails({ create }) {
    const error = await create({ model: 'refused' }).then(() => assert.fail('OK'), (e) => e);
    assert.strictEqual(error.code, grpc.status.RESOURCE_EXHAUSTED);
    assert.match(error.details, /100 % é/);
    assert.ok(error.metadata.get('grpc-status-details-bin')[0].includes('completion.v1.ErrorDetail'));
  },
  async invalidArgument({ create }) {
    const error = await create({ model: 'echo', n: 1000 }).then(() => assert.fail('OK'), (e) => e);
    assert.strictEqual(error.code, grpc.status.INVALID_ARGUMENT);
    assert.match(error.details, /\bn\b/);
  },
  async cancelClosesTheUpstream({ client }) {
    const call = client.CreateStream({ model: 'endless' });
    await new Promise((resolve) => call.once('data', resolve));
    const failed = new Promise((resolve) => call.once('error', resolve));
    call.cancel();
    assert.strictEqual((await failed).code, grpc.status.CANCELLED);
    await wasClosed('endless');
  },
  async deadlineClosesTheUpstream({ create }) {
    const error = await create({ model: 'silent' }, { deadline: Date.now() + 300 })
      .then(() => assert.fail('OK'), (e) => e);
    assert.strictEqual(error.code, grpc.status.DEADLINE_EXCEEDED);
    await wasClosed('silent');
  },
  async slowReader({ client, create }) {
    const call = client.CreateStream({ model: 'flood' });
    await new Promise((resolve) => call.once('readable', resolve));
    for (let i = 0; i < 100; i++) await create({ model: 'echo', prompt_string: 'x' });
    const numbers = (await texts(call)).filter((t) => t).map((t) => parseInt(t, 10));
    assert.deepStrictEqual(numbers, Array.from({ length: 2000 }, (_, i) => i));
  },
  async unknownMethod({ client }) {
    const error = await new Promise((resolve) =>
      client.makeUnaryRequest('/completion.v1.Completions/Nothing', (x) => x, (x) => x, Buffer.alloc(0), resolve));
    assert.strictEqual(error.code, grpc.status.UNIMPLEMENTED);
  },
  async reflectionV1({ socket }) {
    await reflect(socket, 'v1');
  },
  async reflectionV1alpha({ socket }) {
    await reflect(socket, 'v1alpha');
  },
};

// A client that has no .proto at all, as people's tools are.
async function reflect(socket, version) {
  let GrpcReflection;
  try {
    ({ GrpcReflection } = require(require.resolve('grpc-js-reflection-client', { paths: [modules] })));
  } catch (error) {
    console.log(`skipped: ${error.code} (grpc-js-reflection-client)`);
    return;
  }
  const target = [`unix:${socket}`, grpc.credentials.createInsecure()];
  const reflection = new GrpcReflection(...target, {}, version);
  assert.deepStrictEqual((await reflection.listServices()).sort(), [
    'completion.v1.Completions', 'completion.v1.Status', 'grpc.health.v1.Health',
    'grpc.reflection.v1.ServerReflection', 'grpc.reflection.v1alpha.ServerReflection']);
  assert.deepStrictEqual((await reflection.listMethods('grpc.health.v1.Health')).map((m) => m.name), ['Check', 'Watch']);
  await assert.rejects(reflection.getDescriptorBySymbol('completion.v1.Nothing'));
  const numbers = await reflection.getAllExtensionNumbersOfType('completion.v1.Completion');
  assert.deepStrictEqual(numbers.extension_number, []);

  const descriptor = await reflection.getDescriptorBySymbol('completion.v1.Completions');
  const { completion } = descriptor.getPackageObject({ keepCase: true, enums: String, longs: String });
  const client = new completion.v1.Completions(...target);
  const answer = await new Promise((resolve, reject) => client.Create(
    { model: 'echo', prompt_string: 'a\0b é' }, (error, reply) => (error ? reject(error) : resolve(reply))));
  assert.strictEqual(answer.choices[0].text, 'a\0b é');
  assert.strictEqual(answer.choices[0].finish_reason, 'FINISH_REASON_STOP');
  client.close();
}

async function startDaemon(directory, baseUrl) {
  const socket = path.join(directory, 'rpc.sock');
  const config = path.join(directory, 'conf');
  fs.writeFileSync(config,
    `[daemon]\nworkers = ${process.env.COMPLETIOND_TEST_WORKERS ?? 1}\n`);
  const daemon = spawn(binary, ['--config', config, '--listen', socket], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, OPENAI_BASE_URL: baseUrl, OPENAI_API_KEY: 'sk-stock' },
  });
  // Node has no datagram sockets of the Unix kind for sd_notify; the log says it as well.
  await new Promise((resolve, reject) => {
    let log = '';
    daemon.stderr.on('data', (piece) => {
      log += piece;
      process.stderr.write(piece);
      if (log.includes('listening on')) resolve();
    });
    daemon.on('exit', () => reject(new Error('the daemon ended')));
  });
  return { daemon, socket };
}

async function main() {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stock.'));
  await new Promise((resolve) => upstream.listen(0, '127.0.0.1', resolve));
  const { daemon, socket } = await startDaemon(directory, `http://127.0.0.1:${upstream.address().port}/v1`);
  const definition = loader.loadSync('completion/v1/completion.proto',
    { includeDirs: [proto], keepCase: true, longs: String, enums: String });
  const { Completions } = grpc.loadPackageDefinition(definition).completion.v1;
  const client = new Completions(`unix:${socket}`, grpc.credentials.createInsecure());
  const create = (request, options = {}) => new Promise((resolve, reject) =>
    client.Create(request, options, (error, answer) => (error ? reject(error) : resolve(answer))));

  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test({ client, create, socket });
      console.log(`ok - ${name}`);
    } catch (error) {
      failed++;
      console.log(`not ok - ${name}: ${error.stack}`);
    }
  }
  client.close();
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
