-- Requests that differ in one number alone, a random row's key: all before the number is made once for each count of digits.
local rows = tonumber(os.getenv("HEARTH_BENCH_ROWS"))

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

-- A maker of requests whose body is `start`, a key, `finish`. Not before `init`, when wrk knows the address.
return function(start, finish)
    local heads = {}
    for digits = 1, #tostring(rows) do
        local number = string.rep("9", digits)
        heads[digits] = wrk.format(nil, nil, nil, start .. number .. finish):sub(1, -digits - #finish - 1)
    end
    return function()
        local number = tostring(math.random(rows))
        return heads[#number] .. number .. finish
    end
end
