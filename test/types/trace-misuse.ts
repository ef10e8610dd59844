/** Wrong use of `dmapool/trace` that must not compile; see `misuse.ts`. */
import { type DecodedTrace, decodeTrace, readTrace, replayTrace, type TraceEvent } from 'dmapool/trace';

export async function traces(event: TraceEvent, trace: DecodedTrace): Promise<void> {
  // @ts-expect-error TS2339: only an allocation has a block
  console.log(event.block);
  if (event.type === 'alloc') console.log(event.block);
  // @ts-expect-error TS2367: there is no such event
  if (event.type === 'zalloc') console.log(event);
  // @ts-expect-error TS2740: events are an iterator, not an array
  const events: TraceEvent[] = readTrace('traces/6.12/ehci.trace.gz');
  console.log(events.length);
  // @ts-expect-error TS2345: a number is no trace
  await decodeTrace(3);
  // @ts-expect-error TS2345: a trace is decoded before it is replayed
  replayTrace('traces/6.12/ehci.trace.gz');
  // @ts-expect-error TS2561: option names are checked
  replayTrace(trace, { repeats: 3 });
  // @ts-expect-error TS2540: a trace is read-only
  trace.refused = 0;
}
