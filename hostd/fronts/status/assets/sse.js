/** Server-sent events of a response that `fetch` got: EventSource cannot send a token. */

/** Yield the events of a response as `{name, data}`; comments and ids are read over. */
export async function* eventsOf(response) {
  let event = { name: "message", data: "" };
  for await (const line of linesOf(response.body)) {
    if (line === "") {
      if (event.data) yield { name: event.name, data: JSON.parse(event.data) };
      event = { name: "message", data: "" };
    } else if (line.startsWith("event: ")) event.name = line.slice(7);
    else if (line.startsWith("data: ")) event.data += line.slice(6);
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  } finally {
    // What is no longer read ends in the host, too.
    reader.cancel().catch(() => {});
  }
}
