/** Checks for a runtime that cannot share memory: a web page without cross-origin isolation. */
import { Device, DmaPool, HeapMemory } from '../../../src/index.ts';
import { attachPool, sharePool } from '../../../src/shared/index.ts';
import { type Check, ok, refused, same } from './check.ts';

export const unsharedChecks: readonly Check[] = [
  {
    name: 'there is no SharedArrayBuffer, and the memory reports it',
    run(): void {
      same(typeof SharedArrayBuffer, 'undefined');
      const memory = new HeapMemory({ limit: 1024 * 1024 });
      same(memory.shareable, false);
      const pool = DmaPool.create('p', new Device({ name: 'd', memory }), { size: 64 });
      ok(pool.alloc().bytes.buffer instanceof ArrayBuffer, 'an ordinary buffer');
    },
  },
  {
    name: 'share is refused with the missing feature, and the pool stays usable',
    async run(): Promise<void> {
      const memory = new HeapMemory({ limit: 1024 * 1024 });
      const pool = DmaPool.create('p', new Device({ name: 'd', memory }), { size: 64, maxBlocks: 8 });
      const block = pool.alloc();
      const { message } = await refused('ERR_DMAPOOL_NOT_SHAREABLE', () => sharePool(pool).handle);
      ok(message.includes('cross-origin isolation'), message);
      pool.free(block);
      same(pool.tryAlloc() === block, true);
      pool.free(block);
      pool.destroy();
      same(memory.bytesInUse, 0);
    },
  },
  {
    name: 'attach refuses every argument',
    async run(): Promise<void> {
      await refused('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool(undefined as never).pool);
      await refused('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool({} as never).pool);
      const lookAlike = { dmapool: 1, pages: new Float64Array(3), buffers: [new ArrayBuffer(4096)], device: {} };
      for (const control of [undefined, null, 7, new ArrayBuffer(4096)]) {
        await refused('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool({ ...lookAlike, control } as never).pool);
      }
    },
  },
];
