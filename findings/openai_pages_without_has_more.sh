#!/bin/sh
# Guess: a page of job events without has_more is the last: the standard client stops there.
# What is: the client goes on until a page is empty, with the last event's id as `after`: one
#   request more than pages, and a server that doesn't honour `after` is asked without end. Unknown
#   statuses, a string as the error and dates of the wrong type pass unchecked into the typed
#   objects.
# Seen since: openai 3.54.0 (earlier ones weren't tried)
# What to do: a server must send has_more and honour `after`; a client's types are no check of what
#   a server sends.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet openai==3.54.0
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import httpx2
import openai
from openai import OpenAI

print("openai", openai.__version__)
events = [{"object": "fine_tuning.job.event", "id": f"event-{i}", "created_at": i,
           "level": "info", "message": f"step {i}"} for i in range(4)]
job = {"id": "job", "object": "fine_tuning.job", "status": "cooling", "error": "out of memory",
       "created_at": "yesterday", "model": "m"}
asked = []

def serve(request, has_more):
    if not request.url.path.endswith("/events"):
        return httpx2.Response(200, json=job)
    after = request.url.params.get("after")
    asked.append(after)
    start = 0 if after is None else [e["id"] for e in events].index(after) + 1
    page = {"object": "list", "data": events[start : start + 2]}
    if has_more:
        page["has_more"] = start + 2 < len(events)
    return httpx2.Response(200, json=page)

counts = {}
for has_more in (True, False):
    asked.clear()
    transport = httpx2.MockTransport(lambda request: serve(request, has_more))
    client = OpenAI(api_key="none", base_url="http://local/v1",
                    http_client=httpx2.Client(transport=transport))
    seen = [event.id for event in client.fine_tuning.jobs.list_events("job", limit=2)]
    counts[has_more] = len(asked)
    print("has_more sent:", has_more, "events", seen, "requests, by after:", asked)
    assert seen == [e["id"] for e in events]
assert counts == {True: 2, False: 3}
got = client.fine_tuning.jobs.retrieve("job")
print(type(got).__name__, repr(got.status), repr(got.error), repr(got.created_at))
assert (got.status, got.error, got.created_at) == ("cooling", "out of memory", "yesterday")
PYTHON
