/** A user's program that replays recorded traffic. */
import { decodeTrace, type DecodedTrace, DmaTraceError, readTrace, replayTrace } from 'dmapool/trace';

// The path of the trace, if the program gets one.
const path = process.argv[2];
if (path !== undefined) {
  const trace: DecodedTrace = await decodeTrace(path);
  const { mismatches } = replayTrace(trace, { repeat: 1 });
  if (mismatches.length > 0) throw new Error('a recorded trace does not replay as expected');
}

let code = '';
try {
  for await (const event of readTrace(new TextEncoder().encode('this is no trace\n'))) console.log(event.type);
} catch (error) {
  if (error instanceof DmaTraceError) code = error.code;
}
if (code !== 'ERR_DMAPOOL_TRACE') throw new Error('an invalid trace was accepted');
