-- The same GET each time, as Hearth takes it.
dofile(os.getenv("HEARTH_BENCH_LUA") .. "/answers.lua")

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '["GET","foo"]'
