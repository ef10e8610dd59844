/** Types that the compiler infers and users rely on. Not run: compiling is the test. */
import {
  type Device,
  type DmaBlock,
  DmaError,
  DmaOutOfMemoryError,
  DmaPool,
  loadAcquire16,
  type PoolStatistics,
} from 'dmapool';
import {
  attachPool,
  DmaSharingError,
  type SharedPool,
  type SharedPoolHandle,
  sharePool,
  type WorkerExit,
} from 'dmapool/shared';
import { readTrace, type TraceAlloc } from 'dmapool/trace';

/** True if the two types are identical; the compiler compares only types that depend on another one this way. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- see above
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

/** `is<T>()(value)` compiles only if the value's type is exactly T. */
declare function is<T>(): <V>(value: V, ...wrong: Same<V, T> extends true ? [] : [never]) => void;

export async function inference(device: Device, handle: SharedPoolHandle): Promise<void> {
  // A pool's name becomes part of its type, and of its blocks' types, without `as const`.
  const pool = DmaPool.create('rx', device, { size: 64 });
  is<DmaPool<'rx'>>()(pool);
  // @ts-expect-error TS2554: proves that this test can fail
  is<DmaPool>()(pool);
  is<'rx'>()(pool.name);
  const block = pool.alloc();
  is<DmaBlock<'rx'>>()(block);
  const managed = DmaPool.createManaged('tx', device, { size: 64 });
  is<DmaPool<'tx'>>()(managed);
  const perhaps = pool.tryAlloc();
  is<DmaBlock<'rx'> | null>()(perhaps);
  const awaited = await pool.allocWait();
  is<DmaBlock<'rx'>>()(awaited);
  const all = [...pool.allocated()];
  is<DmaBlock<'rx'>[]>()(all);
  const index = pool.allocIndex();
  is<number>()(index);

  // A name that is known only at run time gives the general pool type.
  const named = DmaPool.create(device.name, device, { size: 64 });
  is<DmaPool>()(named);
  // The receiver of a handle may name the pool that it expects.
  const attached = attachPool<'rx'>(handle);
  is<SharedPool<'rx'>>()(attached);
  is<DmaPool<'rx'>>()(attached.pool);
  const accepted = attached.accept(attached.transfer(attached.pool.alloc({ zero: true, grow: false })));
  is<DmaBlock<'rx'>>()(accepted);
  const recalled = attached.recall(attached.inTransit().map(({ ticket }) => ticket));
  is<DmaBlock<'rx'>[]>()(recalled);
  const indices = attached.recallIndex();
  is<number[]>()(indices);
  is<SharedPool<'rx'>>()(sharePool(pool));
  const exits = attached.reportWorkerExit(3);
  is<readonly WorkerExit[]>()(exits);
  attached.onWorkerExit((exit) => {
    is<WorkerExit>()(exit);
  });

  // Blocks, pools and devices are disposable.
  const disposables: Disposable[] = [block, pool, device];
  is<Disposable[]>()(disposables);
  is<DmaPool<'rx'>>()(device.manage(pool));

  const error: unknown = null;
  if (error instanceof DmaError) {
    const { code } = error;
    is<`ERR_DMAPOOL_${string}`>()(code);
  }
  // Each class has its own codes.
  if (error instanceof DmaOutOfMemoryError) {
    const { code } = error;
    is<'ERR_DMAPOOL_NO_MEMORY' | 'ERR_DMAPOOL_LIMIT' | 'ERR_DMAPOOL_NO_FREE_BLOCK'>()(code);
  }
  if (error instanceof DmaSharingError) {
    const { code } = error;
    is<
      | 'ERR_DMAPOOL_NOT_SHAREABLE'
      | 'ERR_DMAPOOL_NOT_TRIMMABLE'
      | 'ERR_DMAPOOL_BAD_TICKET'
      | 'ERR_DMAPOOL_THREAD_ALIVE'
      | 'ERR_DMAPOOL_DECLARED_ENDED'
    >()(code);
  }
  const value: unknown = null;
  if (value instanceof DmaPool) is<DmaPool>()(value);
  is<PoolStatistics>()(pool.toJSON());
  const { inTransit } = pool.statistics();
  is<number>()(inTransit);
  const half = loadAcquire16(block.u16, 0);
  is<number>()(half);
  for await (const event of readTrace('x')) {
    if (event.type !== 'alloc') continue;
    is<TraceAlloc>()(event);
  }
}
