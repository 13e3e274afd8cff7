-- Sends the whole requests that it is given, one file each, in turn. `done` prints what bench/wrk.py reads.
local requests, next_one = {}, 0

function init(args)
  for number = 1, #args do
    local file = assert(io.open(args[number], "rb"))
    requests[number] = file:read("*a")
    file:close()
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    e.connect, e.read, e.write, e.status, e.timeout))
end
