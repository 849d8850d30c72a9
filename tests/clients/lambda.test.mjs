// The function of lambda-example under cargo-lambda's emulator of the Lambda runtime, against a broker of its own.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync, readlinkSync, readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';

import { Child, freePort, inRepo, onPath, program, psql, startHearth, waitFor } from './lib.mjs';

// The emulator knows a function by the name of its binary.
const FUNCTION = 'lambda-example';

describe('the function of lambda-example', { timeout: 60_000 }, () => {
  let hearth, emulator, lambda, sockets;

  before(async () => {
    hearth = await startHearth();
    await psql(hearth.database_url, { file: inRepo('lambda-example/schema.sql') });
    emulator = await startEmulator();
    lambda = startFunction(emulator, hearth);
    sockets = new SocketWatch(lambda.pid);
  });

  after(async () => {
    sockets?.stop();
    for (const child of [lambda, emulator?.child, hearth?.child]) await child?.stop();
  });

  const file = (name) => inRepo(`lambda-example/events/${name}.json`);
  /** Invokes the function with an event file of the example, or with the `read` event for one order. */
  const invoke = async (event) => {
    const data = typeof event === 'string' ? ['--data-file', file(event)] : ['--data-ascii', reading(event.order)];
    return emulator.invoke(data, lambda);
  };
  const reading = (order) => {
    const event = JSON.parse(readFileSync(file('read'), 'utf8'));
    event.rawPath = event.requestContext.http.path = `/orders/${order}`;
    event.pathParameters = { id: String(order) };
    return JSON.stringify(event);
  };

  it('stores an order that PostgreSQL then holds', async () => {
    const { status, headers, body } = await invoke('create');
    assert.equal(status, 201, JSON.stringify(body));
    assert.equal(headers.location, `/orders/${body.id}`);
    const rows = await psql(hearth.database_url, `SELECT item, quantity FROM orders WHERE id = ${BigInt(body.id)}`);
    assert.deepEqual(rows, [`${body.item}|${body.quantity}`]);
  });

  it('reads an order from PostgreSQL first and from Redis then', async () => {
    const { body: created } = await invoke('create');
    for (const source of ['postgres', 'redis']) {
      const { status, headers, body } = await invoke({ order: created.id });
      assert.deepEqual([status, body], [200, { ...created, source }]);
      assert.equal(headers['x-order-source'], source);
    }
  });

  it('answers the read event that the example keeps', async () => {
    const [known] = await psql(hearth.database_url, 'SELECT count(*) FROM orders WHERE id = 1');
    assert.equal((await invoke('read')).status, known === '1' ? 200 : 404);
  });

  it('refuses a bad order, and does not know every order', async () => {
    const [before] = await psql(hearth.database_url, 'SELECT count(*) FROM orders');
    const bad = await invoke('bad');
    assert.deepEqual([bad.status, bad.body.error], [400, 'invalid_order']);
    const unknown = await invoke({ order: 987_654_321 });
    assert.deepEqual([unknown.status, unknown.body.error], [404, 'unknown_order']);
    assert.deepEqual(await psql(hearth.database_url, 'SELECT count(*) FROM orders'), [before]);
  });

  it('opens no connection to PostgreSQL or Redis', (t) => {
    if (process.platform !== 'linux') return t.skip('a process shows its sockets in /proc, which only Linux has');
    const port = (url) => Number(new URL(url).port);
    const seen = [...sockets.remotePorts];
    assert.ok(seen.includes(port(hearth.url)), `the broker is among the function's peers: ${seen}`);
    for (const url of [hearth.database_url, hearth.redis_url]) {
      assert.ok(!seen.includes(port(url)), `port ${port(url)} is among the function's peers: ${seen}`);
    }
  });

  it('reads past a Redis that does not answer', async () => {
    const { body: created } = await invoke('create');
    await suspendRedis(hearth.redis_url);
    const { status, body } = await invoke({ order: created.id });
    assert.deepEqual([status, body], [200, { ...created, source: 'postgres' }]);
    assert.match(lambda.output, /read without the cache/);
  });

  it('asks its caller to come again when there is no broker, and shows no key', async () => {
    assert.deepEqual(await hearth.child.stop('SIGINT'), { code: 0, signal: null }, hearth.child.output);
    const { status, headers, body } = await invoke('create');
    assert.deepEqual([status, body.error], [503, 'unavailable'], JSON.stringify(body));
    assert.match(headers['retry-after'], /^[1-9][0-9]*$/);
    for (const text of [JSON.stringify(body), lambda.output]) assert.ok(!text.includes(hearth.key), 'the key stays inside');
  });
});

/** Starts the emulator alone: the function is a program of our own that connects to it, as on Lambda. */
async function startEmulator() {
  const command = program('CARGO_LAMBDA', onPath('cargo-lambda'));
  const port = await freePort();
  const address = ['-A', '127.0.0.1', '-P', String(port)];
  // It wants to stand in a crate's folder, though with this flag it builds nothing.
  const child = new Child(command, ['lambda', 'watch', '--only-lambda-apis', ...address], { cwd: inRepo('lambda-example') });
  await child.ready(`the emulator's port ${port}`, () => accepts(port));

  async function invoke(data, lambda) {
    const args = ['lambda', 'invoke', FUNCTION, ...address, ...data];
    const { stdout } = await promisify(execFile)(command, args, { timeout: 20_000 }).catch((error) => {
      throw new Error(`${error.message}\nthe function so far:\n${lambda.output}`);
    });
    const answer = JSON.parse(stdout);
    return { status: answer.statusCode, headers: answer.headers, body: JSON.parse(answer.body) };
  }
  return { child, invoke, api: `http://127.0.0.1:${port}/.rt/${FUNCTION}` };
}

/** Starts the function with what Lambda would set, the broker's address and key, and nothing else. */
function startFunction(emulator, hearth) {
  const env = {
    AWS_LAMBDA_RUNTIME_API: emulator.api,
    AWS_LAMBDA_FUNCTION_NAME: FUNCTION,
    AWS_LAMBDA_FUNCTION_VERSION: '1',
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '512',
    HEARTH_URL: hearth.url,
    HEARTH_KEY: hearth.key,
  };
  return new Child(program('LAMBDA_BIN', inRepo('target/debug/lambda-example')), [], { env });
}

/** Notes every TCP port that one process talks to, many times a second, from its own sockets. Linux only. */
class SocketWatch {
  remotePorts = new Set();

  constructor(pid) {
    if (process.platform === 'linux') this.timer = setInterval(() => this.#look(pid), 5);
  }

  stop() {
    clearInterval(this.timer);
  }

  // /proc/PID/net shows the sockets of everyone; the inode numbers of the process' own descriptors say which are its own.
  #look(pid) {
    try {
      const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readLink(`/proc/${pid}/fd/${fd}`));
      const own = new Set(links.map((link) => link?.match(/^socket:\[(\d+)\]$/)?.[1]).filter(Boolean));
      for (const table of ['tcp', 'tcp6']) {
        for (const line of readFileSync(`/proc/${pid}/net/${table}`, 'utf8').trim().split('\n').slice(1)) {
          const [, , remote, , , , , , , inode] = line.trim().split(/\s+/);
          if (own.has(inode)) this.remotePorts.add(parseInt(remote.split(':')[1], 16));
        }
      }
    } catch (error) {
      if (error.code !== 'ENOENT' && error.code !== 'ESRCH') throw error;
    }
  }
}

// A descriptor may close between the listing and the look.
function readLink(path) {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function accepts(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/** Lets Redis take commands and answer none, for longer than this test lasts. Killing it would end `hearth dev`. */
async function suspendRedis(url) {
  const { hostname, port, password } = new URL(url);
  const socket = connect(Number(port), hostname);
  let answer = '';
  socket.setEncoding('utf8').on('data', (text) => (answer += text));
  const login = password ? `AUTH ${decodeURIComponent(password)}\r\n` : '';
  socket.write(`${login}CLIENT PAUSE 600000 ALL\r\n`);
  await waitFor('Redis to suspend itself', () => answer.startsWith('+OK\r\n'.repeat(password ? 2 : 1)), 5_000)
    .catch((error) => assert.fail(`${error.message}: ${answer}`))
    .finally(() => socket.destroy());
}
