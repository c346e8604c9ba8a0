-- Makes wrk send the files that $BODIES lists, in turn, and print the figures as a line of JSON.
local bodies, sent = {}, 0
for path in io.lines(os.getenv("BODIES")) do
  local file = assert(io.open(path, "rb"))
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
local headers = { ["content-type"] = os.getenv("CONTENT_TYPE") }

function request()
  sent = sent % #bodies + 1
  return wrk.format("POST", nil, headers, bodies[sent])
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f, "max_ms": %f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
