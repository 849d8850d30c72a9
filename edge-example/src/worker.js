// Users over HTTP: a Worker that keeps no connection, since Hearth keeps them for it.
//
//   GET  /users        the first hundred
//   POST /users        {"name": "Ada", "email": "ada@example.com", "tags": ["admin"]} → 201
//   GET  /users/{id}   one

// What the broker may spend on one statement, waiting included. It cancels the statement at that moment.
const STATEMENT_TIMEOUT_MS = 3_000;
// What the Worker waits: a little more, so that the broker's own answer, which says what became of the statement, wins.
const FETCH_TIMEOUT_MS = STATEMENT_TIMEOUT_MS + 500;
const INT8_MAX = 9_223_372_036_854_775_807n;
const COLUMNS = 'id, name, email, tags, created';

export default {
  async fetch(request, env) {
    const id = request.headers.get('x-request-id') ?? crypto.randomUUID();
    const response = await route(request, hearth(env, id)).catch((error) => {
      if (error instanceof Refusal) return error.response(id);
      throw error;
    });
    response.headers.set('x-request-id', id);
    return response;
  },
};

async function route(request, query) {
  const { pathname } = new URL(request.url);
  const [, id] = pathname.match(/^\/users\/([^/]+)$/) ?? [];
  if (id !== undefined) {
    return only(request, { GET: () => readUser(query, id) });
  }
  if (pathname === '/users') {
    return only(request, { GET: () => listUsers(query), POST: () => createUser(query, request) });
  }
  throw new Refusal(404, 'not_found', 'there is /users and /users/{id}');
}

function only(request, handlers) {
  if (Object.hasOwn(handlers, request.method)) return handlers[request.method]();
  const allow = Object.keys(handlers).join(', ');
  throw new Refusal(405, 'method_not_allowed', `this path takes ${allow}`, { headers: { allow } });
}

async function listUsers(query) {
  const sql = `SELECT ${COLUMNS} FROM users ORDER BY id LIMIT 100`;
  const { rows } = await query(sql, [], { read_only: true });
  return Response.json({ users: rows });
}

async function readUser(query, id) {
  // What cannot be an int8 is nobody's id; the database need not be asked.
  const possible = /^[0-9]{1,19}$/.test(id) && BigInt(id) <= INT8_MAX;
  const sql = `SELECT ${COLUMNS} FROM users WHERE id = $1`;
  const { rows } = possible ? await query(sql, [id], { read_only: true }) : { rows: [] };
  if (rows.length === 0) throw new Refusal(404, 'unknown_user', `there is no user ${id}`);
  return Response.json(rows[0]);
}

async function createUser(query, request) {
  const { name, email, tags } = await readNewUser(request);
  const sql = `INSERT INTO users (name, email, tags) VALUES ($1, $2, $3) RETURNING ${COLUMNS}`;
  const { rows } = await query(sql, [name, email, tags]);
  return Response.json(rows[0], { status: 201, headers: { location: `/users/${rows[0].id}` } });
}

async function readNewUser(request) {
  const body = await request.json().catch(() => null);
  if (body === null || typeof body !== 'object') throw new Refusal(400, 'invalid_user', 'send a JSON object');
  const { name, email = null, tags = [] } = body;
  if (typeof name !== 'string' || name.trim() === '') throw new Refusal(400, 'invalid_user', 'name must be a text');
  if (email !== null && typeof email !== 'string') throw new Refusal(400, 'invalid_user', 'email must be a text');
  if (!Array.isArray(tags) || tags.some((tag) => typeof tag !== 'string')) {
    throw new Refusal(400, 'invalid_user', 'tags must be a list of texts');
  }
  return { name: name.trim(), email, tags };
}

/** A function that runs one statement in the database `app` and returns Hearth's answer, or throws a `Refusal`. */
function hearth(env, requestId) {
  return async function query(sql, params = [], options = {}) {
    let response, answer;
    try {
      response = await fetch(`${env.HEARTH_URL}/v1/db/app/query`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${env.HEARTH_KEY}`,
          'content-type': 'application/json',
          'hearth-timeout-ms': String(STATEMENT_TIMEOUT_MS),
          'x-request-id': requestId,
        },
        body: JSON.stringify({ sql, params, ...options }),
        signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
      });
      answer = await response.json();
    } catch (error) {
      throw noAnswer(error, requestId);
    }
    if (!response.ok) throw refused(response, answer);
    return answer;
  };
}

// A refused key or an unknown database is this Worker's fault and not its caller's, who would take a 401 for a login.
const OWN_FAULT = new Set([401, 403, 404]);

/** The broker's problem, told on: `status` in the body is the broker's, the response's own is for the caller. */
function refused(response, problem) {
  const status = OWN_FAULT.has(response.status) ? 502 : response.status;
  const retryAfter = response.headers.get('retry-after');
  return new Refusal(status, problem.code, problem.detail, {
    problem: {
      status: problem.status,
      sqlstate: problem.sqlstate ?? null,
      outcome: problem.outcome,
      retryable: problem.retryable,
    },
    headers: retryAfter === null ? {} : { 'retry-after': retryAfter },
  });
}

/** No readable answer came: whether the statement ran is not known, and the caller is told so. */
function noAnswer(error, requestId) {
  console.error(`request ${requestId}: no answer from the broker: ${error.message}`);
  const [status, code] = error.name === 'TimeoutError' ? [504, 'broker_timeout'] : [502, 'broker_unreachable'];
  return new Refusal(status, code, 'the broker did not answer', { problem: { outcome: 'unknown', retryable: false } });
}

/** Why a request ends without what it asked for; `response()` is what the caller sees. */
class Refusal extends Error {
  constructor(status, code, message, { problem = {}, headers = {} } = {}) {
    super(message);
    Object.assign(this, { status, code, problem, headers });
  }

  response(requestId) {
    const { status, code, message, problem, headers } = this;
    return Response.json({ code, message, status, ...problem, request_id: requestId }, { status, headers });
  }
}
