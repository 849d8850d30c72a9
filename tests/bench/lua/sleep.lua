-- A second of sleep in the database each time.
dofile(os.getenv("HEARTH_BENCH_LUA") .. "/answers.lua")

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"sql":"SELECT pg_sleep(1)"}'
