// What a program does with completiond: ask, read a stream, cancel, keep a deadline, read an error.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const { once } = require('events');

const socket = process.env.COMPLETIOND_SOCKET || '/run/completiond/rpc.sock';
const protodir = process.env.COMPLETIOND_PROTO || '/usr/share/completiond/proto';
const definition = loader.loadSync('completion/v1/completion.proto', { includeDirs: [protodir], keepCase: true, enums: String, longs: Number });
const { Completions } = grpc.loadPackageDefinition(definition).completion.v1;
const completions = new Completions(`unix:${socket}`, grpc.credentials.createInsecure());
const create = (request, options = {}) => new Promise((resolve, reject) =>
  completions.Create(request, options, (error, answer) => (error ? reject(error) : resolve(answer))));

const short = { model: 'gpt-3.5-turbo-instruct', prompt_string: 'Once upon a time', temperature: 0, max_tokens: 12 };
const long = { ...short, max_tokens: 1000 };

async function main() {
  // The whole answer.
  const answer = await create(short);
  console.log(`unary:${answer.choices[0].text}`);

  // The same in pieces, as they are generated. The loop throws if the answer was cut.
  process.stdout.write('stream:');
  for await (const chunk of completions.CreateStream(short))
    for (const choice of chunk.choices) process.stdout.write(choice.text);
  console.log();

  // Whoever has read enough cancels, and the generation stops.
  const call = completions.CreateStream(long);
  const [first] = await once(call, 'data');
  call.on('error', () => {}); // CANCELLED
  call.cancel();
  console.log(`cancelled after:${first.choices[0].text}`);

  // A point in time for everything, the wait for the upstream included.
  await create(long, { deadline: Date.now() + 200 }).catch((error) =>
    console.log(`deadline: ${grpc.status[error.code]}`));

  // What is wrong, in fields.
  await create({ model: 'gpt-3.5-turbo-instruct', temperature: 3 }).catch((error) => {
    const [bytes] = error.metadata.get('grpc-status-details-bin');
    const detail = definition['completion.v1.ErrorStatus'].deserialize(bytes).details[0].value;
    console.log(`error: ${grpc.status[error.code]} ${detail.reason} ${detail.param}`);
  });
  completions.close();
}

main();
