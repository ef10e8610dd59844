/** Worker program: opens the region that it receives, and executes requests. */
import { parentPort } from 'node:worker_threads';
import { DmaError, type SharedRegion } from 'dmapool';
import { attachPool, type SharedPoolHandle } from 'dmapool/shared';
import { openSharedRegion } from 'dmapool/linux';

export type RegionRequest =
  | { readonly do: 'count'; readonly region: SharedRegion; readonly word: number; readonly times: number }
  | { readonly do: 'fill'; readonly handle: SharedPoolHandle; readonly value: number };

parentPort!.on('message', (request: RegionRequest) => {
  try {
    if (request.do === 'count') {
      const words = new Int32Array(openSharedRegion(request.region));
      for (let i = 0; i < request.times; i++) Atomics.add(words, request.word, 1);
      parentPort!.postMessage({ ok: words.byteLength });
    } else {
      const shared = attachPool(request.handle, { openRegion: openSharedRegion });
      const block = shared.pool.alloc();
      block.bytes.fill(request.value);
      parentPort!.postMessage({ ok: shared.transfer(block) });
    }
  } catch (error) {
    parentPort!.postMessage({ code: error instanceof DmaError ? error.code : String(error) });
  }
});
