/** A tap records the operations of a pool in this thread. It consists of hooks that run around the pool's own. */
import { openPool } from '../dma-pool.ts';
import { DmaArgumentError } from '../errors.ts';
import type { DmaPool } from '../pool/contract.ts';
import type { DebugBook } from '../pool/debug.ts';
import type { BlockHooks } from '../pool/hooks.ts';
import { LocalBackend } from '../pool/local-backend.ts';
import { SharedBackend } from '../shared/backend.ts';
import { OPERATION_KIND, type OperationRing } from './ring.ts';

type RecordableBackend = LocalBackend | SharedBackend;

class RecordingHooks implements BlockHooks {
  readonly renewsHandles: boolean;
  readonly quarantines: boolean;
  inner: BlockHooks | null;
  readonly ring: OperationRing;
  /** Number of the pool in the ring. */
  readonly pool: number;
  readonly #worker: number;
  readonly #book: DebugBook | null;

  constructor(inner: BlockHooks | null, book: DebugBook | null, ring: OperationRing, pool: number, worker: number) {
    this.inner = inner;
    this.renewsHandles = inner?.renewsHandles ?? false;
    this.quarantines = inner?.quarantines ?? false;
    this.ring = ring;
    this.pool = pool;
    this.#worker = worker;
    this.#book = book;
  }

  pageOpened(page: number): void {
    this.inner?.pageOpened(page);
  }

  inspect(index: number): string | null {
    return this.inner === null ? null : this.inner.inspect(index);
  }

  // The inner hooks run first, because they record the site.

  allocated(index: number): void {
    this.inner?.allocated(index);
    const site = this.#book === null ? 0 : this.ring.siteOf(this.#book.allocatedAt(index));
    this.ring.push(OPERATION_KIND.alloc, this.#worker, this.pool, index, site);
  }

  freed(index: number): void {
    this.inner?.freed(index);
    const site = this.#book === null ? 0 : this.ring.siteOf(this.#book.freedAt(index));
    this.ring.push(OPERATION_KIND.free, this.#worker, this.pool, index, site);
  }

  scrub(index: number): void {
    this.inner?.scrub(index);
  }

  history(index: number): string {
    return this.inner?.history(index) ?? '';
  }

  holders(indices: readonly number[]): string {
    return this.inner?.holders(indices) ?? '';
  }
}

/** Backends of the recorded pools. `sharePool` replaces a pool's backend. */
const backends = new WeakMap<DmaPool, RecordableBackend>();

function backendOf(pool: DmaPool): RecordableBackend {
  const { backend } = openPool(pool);
  if (backend instanceof LocalBackend || backend instanceof SharedBackend) return backend;
  throw new DmaArgumentError('pool', pool, 'a pool that can be recorded');
}

/** The recordings of a backend, outermost first. */
function* recordings(backend: RecordableBackend): IterableIterator<RecordingHooks> {
  for (let { hooks } = backend; hooks instanceof RecordingHooks; hooks = hooks.inner) yield hooks;
}

/** True while the pool is recorded into `ring`, or into a ring for which `matches` returns true. */
export function isRecorded(pool: DmaPool, matches: (ring: OperationRing) => boolean): boolean {
  return [...recordings(backendOf(pool))].some(({ ring }) => matches(ring));
}

/** Starts to record a pool's operations of this thread. The pool takes the slow path for every call. */
export function attachTap(pool: DmaPool, ring: OperationRing, number: number): void {
  const backend = backendOf(pool);
  const worker = backend instanceof SharedBackend ? backend.worker : 0;
  backend.setHooks(new RecordingHooks(backend.hooks, openPool(pool).book, ring, number, worker));
  backends.set(pool, backend);
}

/** Ends the recording into `ring`. Other recordings of the pool continue. */
export function detachTap(pool: DmaPool, ring: OperationRing): void {
  const backend = backendOf(pool);
  let outer: RecordingHooks | null = null;
  for (const hooks of recordings(backend)) {
    if (hooks.ring !== ring) {
      outer = hooks;
      continue;
    }
    if (outer === null) backend.setHooks(hooks.inner);
    else outer.inner = hooks.inner;
    return;
  }
}

/** Continues the recordings of a pool after `sharePool` replaced its backend. */
export function moveTaps(pool: DmaPool): void {
  const before = backends.get(pool);
  if (before === undefined || before === openPool(pool).backend) return;
  backends.delete(pool);
  for (const { pool: number, ring } of [...recordings(before)].reverse()) attachTap(pool, ring, number);
}
