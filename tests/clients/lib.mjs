// What every client test starts from: a private broker with its databases, psql as the witness, and an end without leftovers.

import { execFile, spawn } from 'node:child_process';
import { accessSync, constants, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { delimiter, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const POLL_MS = 25;
// `initdb`, two servers and the broker, on a machine that is compiling something else at the same time.
const START_MS = 45_000;
const STOP_MS = 15_000;

/** The absolute path of a file or folder of this repository, given relative to its root. */
export function inRepo(path) {
  return fileURLToPath(new URL(join('../..', path), import.meta.url));
}

/** The program a test needs: from the environment, else the default. Fails, and says what to do, where there is none. */
export function program(variable, fallback) {
  const path = process.env[variable] ?? fallback;
  if (path !== undefined && isExecutable(path)) return resolve(path);
  const where = path ?? 'not on PATH';
  throw new Error(`no program for ${variable} (${where}): run bin/test, which installs or builds what these tests need`);
}

/** The path of `name` on PATH or in one of `folders`, else undefined. */
export function onPath(name, folders = []) {
  const all = [...(process.env.PATH ?? '').split(delimiter), ...folders];
  return all.filter(Boolean).map((folder) => join(folder, name)).find(isExecutable);
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Asks `probe` until it answers with something true, and answers with that. Throws what it waited for past `timeoutMs`. */
export async function waitFor(what, probe, timeoutMs = START_MS) {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await sleep(POLL_MS);
  }
}

/** A loopback port that is free now. */
export async function freePort() {
  const server = createServer();
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const running = new Set();
// The last resort, for a test file that is itself cut off: nothing may outlive it. `hearth dev` then cleans up by itself,
// also one that a test has just suspended.
process.on('exit', () => {
  for (const child of running) for (const signal of ['SIGTERM', 'SIGCONT']) child.process.kill(signal);
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

/** A started program: its output so far, and an end by its own id. */
export class Child {
  constructor(command, args, options = {}) {
    this.name = [command, ...args].join(' ');
    this.output = '';
    this.process = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    this.exited = new Promise((resolve) => {
      this.process.once('error', (error) => resolve({ error: error.message }));
      this.process.once('exit', (code, signal) => resolve({ code, signal }));
    });
    running.add(this);
    this.exited.then((exit) => {
      this.exit = exit;
      running.delete(this);
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (this.output += text));
    }
  }

  get pid() {
    return this.process.pid;
  }

  /** Waits like `waitFor`, but gives up at once, with the output, when the program ends first. */
  async ready(what, probe, timeoutMs = START_MS) {
    const orEnd = async () => {
      if (this.exit) throw new Error(`\`${this.name}\` ended before ${what}: ${this.#story()}`);
      return probe();
    };
    return waitFor(what, orEnd, timeoutMs).catch((error) => {
      throw this.exit ? error : new Error(`${error.message}; \`${this.name}\` so far: ${this.#story()}`);
    });
  }

  /** Ends the program and answers how it ended; one that will not end is killed, and that is a failure. */
  async stop(signal = 'SIGINT') {
    this.process.kill(signal);
    await waitFor(`the end of \`${this.name}\``, () => this.exit, STOP_MS).catch((error) => {
      this.process.kill('SIGKILL');
      throw error;
    });
    return this.exit;
  }

  #story() {
    return `${JSON.stringify(this.exit ?? 'running')}\n${this.output}`;
  }
}

/** Starts `hearth dev` and answers with its addresses, keys and, as `child`, the program. */
export async function startHearth() {
  const child = new Child(program('HEARTH_BIN', inRepo('target/debug/hearth')), ['dev', '--json']);
  let first;
  createInterface({ input: child.process.stdout }).once('line', (line) => (first = line));
  try {
    await child.ready('the first line of `hearth dev --json`', () => first);
    return { ...JSON.parse(first), child };
  } catch (error) {
    await child.stop();
    throw error;
  }
}

/** Runs SQL, or a file, past the broker with PostgreSQL's own client; answers with the rows as lines, columns split by `|`. */
export async function psql(url, sqlOrFile) {
  const folder = '/usr/lib/postgresql';
  const versions = isExecutable(folder) ? readdirSync(folder).sort((a, b) => b - a) : [];
  const command = program('PSQL', onPath('psql', versions.map((version) => join(folder, version, 'bin'))));
  const what = sqlOrFile.file ? ['--file', sqlOrFile.file] : ['--command', sqlOrFile];
  const args = ['--no-psqlrc', '--quiet', '--tuples-only', '--no-align', '--set', 'ON_ERROR_STOP=1', ...what, url];
  const { stdout } = await promisify(execFile)(command, args);
  return stdout.split('\n').filter((line) => line !== '');
}
