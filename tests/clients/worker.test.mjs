// The Worker of edge-example in workerd, the runtime it is deployed to, against a broker of its own.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';

import { inRepo, psql, startHearth } from './lib.mjs';

describe('the Worker of edge-example', { timeout: 60_000 }, () => {
  let hearth, worker;

  before(async () => {
    hearth = await startHearth();
    worker = await startWorker(hearth, hearth.key);
  });

  after(async () => {
    await worker?.dispose();
    await hearth?.child.stop();
  });

  it('lists users', async () => {
    const { status, body } = await ask(worker, 'GET', '/users');
    const names = await psql(hearth.database_url, 'SELECT name FROM users ORDER BY id LIMIT 100');
    assert.equal(status, 200);
    assert.ok(names.length > 0, 'the demo table has rows');
    assert.deepEqual(body.users.map((user) => user.name), names);
  });

  it('inserts a user that PostgreSQL then holds', async () => {
    const user = { name: 'Grace "G" O’Hopper', email: 'grace@example.com', tags: ['navy', 'com,piler', 'null'] };
    const { status, headers, body } = await ask(worker, 'POST', '/users', user);
    assert.equal(status, 201, JSON.stringify(body));
    assert.equal(headers.get('location'), `/users/${body.id}`);
    assert.match(body.created, /^\d{4}-\d\d-\d\dT/);

    const sql = `SELECT row_to_json(u) FROM (SELECT name, email, tags FROM users WHERE id = ${BigInt(body.id)}) u`;
    const [row] = await psql(hearth.database_url, sql);
    assert.deepEqual(JSON.parse(row), user);

    const again = await ask(worker, 'GET', `/users/${body.id}`);
    assert.deepEqual([again.status, again.body], [200, body]);
  });

  it('tells a taken name apart as a conflict', async () => {
    const [before] = await psql(hearth.database_url, 'SELECT count(*) FROM users');
    const { users } = (await ask(worker, 'GET', '/users')).body;
    const { status, headers, body } = await ask(worker, 'POST', '/users', { name: users[0].name }, { 'x-request-id': 'taken-1' });
    assert.equal(status, 409);
    const { code, sqlstate, outcome, retryable, request_id } = body;
    const expected = { code: 'conflict', sqlstate: '23505', outcome: 'not_applied', retryable: false, request_id: 'taken-1' };
    assert.deepEqual({ code, sqlstate, outcome, retryable, request_id }, expected);
    assert.equal(body.status, 409);
    assert.equal(headers.get('x-request-id'), 'taken-1');
    assert.deepEqual(await psql(hearth.database_url, 'SELECT count(*) FROM users'), [before]);
  });

  it('answers what it does not know or cannot take by itself', async () => {
    for (const [method, path, body, status, code] of [
      ['GET', '/users/987654321', undefined, 404, 'unknown_user'],
      ['GET', '/users/9999999999999999999', undefined, 404, 'unknown_user'],
      ['GET', '/users/ada', undefined, 404, 'unknown_user'],
      ['GET', '/', undefined, 404, 'not_found'],
      ['DELETE', '/users', undefined, 405, 'method_not_allowed'],
      ['POST', '/users', {}, 400, 'invalid_user'],
      ['POST', '/users', { name: 'x', tags: 'y' }, 400, 'invalid_user'],
    ]) {
      const answer = await ask(worker, method, path, body);
      assert.deepEqual([answer.status, answer.body.code], [status, code], `${method} ${path}`);
    }
  });

  it('says that its own key is refused, and not its caller', async () => {
    const stranger = await startWorker(hearth, 'not-a-key');
    try {
      const { status, body } = await ask(stranger, 'GET', '/users');
      assert.deepEqual([status, body.status, body.code], [502, 401, 'unauthenticated']);
      assert.ok(!JSON.stringify(body).includes('not-a-key'), 'the key stays out of the answer');
    } finally {
      await stranger.dispose();
    }
  });

  it('gives up on a broker that takes a request and never answers', async () => {
    hearth.child.process.kill('SIGSTOP');
    try {
      await allStopped(hearth.child.process.pid);
      const { status, body } = await ask(worker, 'GET', '/users');
      assert.deepEqual([status, body.code, body.outcome], [504, 'broker_timeout', 'unknown']);
    } finally {
      hearth.child.process.kill('SIGCONT');
    }
    assert.equal((await ask(worker, 'GET', '/users')).status, 200);
  });

  it('says so when there is no broker, and the broker ends cleanly', async () => {
    assert.deepEqual(await hearth.child.stop('SIGINT'), { code: 0, signal: null }, hearth.child.output);
    const { status, body } = await ask(worker, 'GET', '/users');
    assert.deepEqual([status, body.code], [502, 'broker_unreachable']);
    await assert.rejects(psql(hearth.database_url, 'SELECT 1'), /refused|does not exist|No such file/, 'its database is gone');
  });
});

/** Waits until every thread of a process stands still: until then one of them may still answer. */
async function allStopped(pid) {
  const tasks = `/proc/${pid}/task`;
  if (!existsSync(tasks)) return;
  const state = (task) => readFileSync(`${tasks}/${task}/stat`, 'utf8').replace(/^.*\) /s, '')[0];
  while (!readdirSync(tasks).every((task) => state(task) === 'T')) await new Promise((resume) => setTimeout(resume, 5));
}

/** Runs the Worker as its wrangler.toml says, with the two bindings that a deploy sets. */
async function startWorker(hearth, key) {
  const { Miniflare } = await import('miniflare').catch((cause) => {
    throw new Error('no miniflare: run bin/test, which installs what these tests need', { cause });
  });
  const settings = readFileSync(inRepo('edge-example/wrangler.toml'), 'utf8');
  const setting = (name) => settings.match(new RegExp(`^${name} = "(.+)"$`, 'm'))[1];
  const worker = new Miniflare({
    name: setting('name'),
    modules: true,
    rootPath: inRepo('edge-example'),
    modulesRoot: inRepo('edge-example'),
    scriptPath: setting('main'),
    compatibilityDate: setting('compatibility_date'),
    bindings: { HEARTH_URL: hearth.url, HEARTH_KEY: key },
    host: '127.0.0.1',
    // Without this the runtime looks up an example of the place it would run in, at an address on the internet.
    cf: false,
  });
  await worker.ready;
  return worker;
}

async function ask(worker, method, path, body, headers = {}) {
  const init = { method, headers, body: body && JSON.stringify(body) };
  const response = await worker.dispatchFetch(`http://worker.test${path}`, init);
  return { status: response.status, headers: response.headers, body: await response.json() };
}
