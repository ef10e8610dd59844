/** The pool backend of one worker of a shared pool: adds promises, messages, errors and user code to the core. */
import { checkFunction, checkInteger } from '../arguments.ts';
import { observer } from '../memory/observer.ts';
import {
  describeThrown,
  DmaBlockError,
  DmaDestroyedError,
  type DmaError,
  DmaOutOfMemoryError,
  DmaTimeoutError,
} from '../errors.ts';
import type { DebugBook } from '../pool/debug.ts';
import { DebugHooks } from '../pool/debug.ts';
import { QUARANTINED } from '../pool/free-list.ts';
import type { BlockHooks } from '../pool/hooks.ts';
import { MAX_BLOCKS } from '../pool/hot-path.ts';
import type { PoolPages } from '../pool/pages.ts';
import {
  BackendBase,
  type BackendOptions,
  labelOf,
  notAllocated,
  type PoolBackend,
  type PoolCounts,
  refusalError,
} from '../pool/backend.ts';
import { AT_LIMIT } from '../pool/refusal.ts';
import type { PoolStatistics } from '../pool/statistics.ts';
import type { WaitOptions } from '../pool/waiting.ts';
import { PER_PAGE_ENTRY, type SharedPoolHandle } from './handle.ts';
import { DmaSharingError } from './errors.ts';
import { type Control, H_EVENTS, H_PAGES, holderOf, isFlight, MAX_THREAD_PAIRS } from './layout.ts';
import { SharedFigures } from './figures.ts';
import { POOL_DESTROYED, SharedCore, type SharedCoreOptions } from './core.ts';
import type { WorkerExit } from './recovery.ts';
import { giverOfTicket, indexOfTicket, type TransitEntry } from './transfers.ts';
import { POLL_INTERVAL, SharedWaits, tryLocked } from './waits.ts';
import {
  currentThread,
  pollExits,
  monitorWorker,
  onceChanged,
  onWorkerCreated,
  type WatchableWorker,
} from './threads.ts';

/** Parts and limits of one worker's backend. */
export interface SharedBackendOptions extends BackendOptions, SharedCoreOptions {
  readonly pages: PoolPages;
  /** The handle that other workers attach with. */
  readonly handle: SharedPoolHandle;
  /** Releases the memory, in the creator; null in workers that attached. */
  readonly release: (() => void) | null;
}

/** Number of times that a call at the limit requests idle blocks of other workers before it is refused. */
const REQUESTS = 2;
/**
 * Timeout in milliseconds of the lock in a recovery on the event loop. It is short because the holder may have died too:
 * then this event loop must continue to process the holder's exit event.
 */
const EVENT_LOCK_TIMEOUT = 20;

export class SharedBackend extends BackendBase implements PoolBackend {
  readonly #options: SharedBackendOptions;
  #hooks: BlockHooks | null = null;
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #label: string;
  readonly #core: SharedCore;
  readonly #figures: SharedFigures;
  readonly #waits: SharedWaits;
  readonly #exitListeners = new Set<{ readonly listener: (exit: WorkerExit) => void }>();
  /** Number of this worker's pages that were reported to an observer. */
  #pagesReported = 0;
  #left = false;
  #released = false;
  /** This worker was marked dead while alive. */
  #declaredEnded = false;
  /** It left, and returns its magazine when the lock is available. */
  #leaving = false;
  /** Workers were marked dead here, and are recovered when the lock is available. */
  #deadToRecover = false;
  readonly #removeWorkerListener: () => void;
  #removeReclaimListener: () => void;

  constructor(options: SharedBackendOptions) {
    const { control, device, list, magazine, mayPark, mostMagazine, pages, worker } = options;
    super(pages);
    this.#options = options;
    this.#header = control.header;
    this.#label = labelOf(options);
    this.#core = new SharedCore({ control, hooks: options.hooks, list, worker, magazine, mostMagazine, mayPark });
    this.#figures = new SharedFigures(control, worker, pages, options.hooks);
    this.#waits = new SharedWaits(control.header, this.#core, this.#label, this, {
      take: () => this.#take(true, false),
      runHooks: (index) => this.#runHooks(index),
      zero: (index) => {
        pages.fill(index, 0);
      },
      free: (index) => {
        this.drain(index);
      },
      guarded: (action) => {
        this.#guarded(action);
      },
      checkNotGone: () => {
        this.checkNotGone();
      },
      destroyedError: () => this.#goneError(),
    });
    this.#removeWorkerListener = onWorkerCreated((created) => {
      this.#guarded(() => {
        this.watchWorker(created);
      });
    });
    this.#removeReclaimListener = device.onReclaim(() => this.#reclaimPages());
    this.setHooks(options.hooks);
    // An earlier worker of this slot may have marked workers dead and exited before it recovered them.
    this.#deadToRecover = this.#core.hasWitnessed();
    this.#onEvents();
  }

  /** See {@link SharedPoolHandle}. */
  get handle(): SharedPoolHandle {
    return this.#options.handle;
  }

  get worker(): number {
    return this.#options.worker;
  }

  /** Hooks that this worker runs on each block that it allocates or frees; null: none. */
  get hooks(): BlockHooks | null {
    return this.#hooks;
  }

  /** Sets {@link hooks} from now on. While there are hooks, the list is held. */
  setHooks(hooks: BlockHooks | null): void {
    this.#hooks = hooks;
    if (hooks !== null) this.#options.list.hold();
    else if (!this.gone && !this.#core.isDestroyed()) this.#options.list.release();
  }

  /** True after any worker destroyed the pool. */
  get destroyed(): boolean {
    return this.#core.isDestroyed();
  }

  /** The control block that all workers share. */
  get control(): Control {
    return this.#options.control;
  }

  get thread(): number {
    return currentThread();
  }

  get gone(): boolean {
    return this.#released || this.#left;
  }

  // ---- allocating and freeing

  refill(grow: boolean): number {
    return this.#reported(this.#take(grow, true));
  }

  #take(grow: boolean, counts: boolean): number {
    if (this.#deadToRecover) this.#recoverDead(0);
    for (let requests = 0; ;) {
      this.checkNotGone();
      const index = this.#takeOne(grow, counts);
      if (index === AT_LIMIT && requests < REQUESTS && !this.#figures.hasWaiters && this.#figures.othersMayHaveIdle()) {
        requests++;
        this.#core.requestIdleBlocks();
      } else if (index < 0 || this.#runHooks(index)) {
        return index;
      }
    }
  }

  #takeOne(grow: boolean, counts: boolean): number {
    const { list } = this.#options;
    // First, because the rest needs the lock.
    if (this.#core.isDestroyed()) throw this.#stopDestroyed();
    // With hooks the list is held, so calls get here although the magazine has blocks.
    const index = list.top >= 0 ? list.pop() : this.#core.refill(grow, counts);
    if (index === POOL_DESTROYED) throw this.#stopDestroyed();
    return index;
  }

  /** Stops this worker after another one destroyed the pool, and returns the error to throw. */
  #stopDestroyed(): DmaDestroyedError {
    tryLocked(() => {
      this.#stop();
    });
    return this.#destroyedError();
  }

  /** Runs the hooks on a block that was just allocated. False if it was quarantined. */
  #runHooks(index: number): boolean {
    const { list, name } = this.#options;
    const hooks = this.#hooks;
    if (hooks === null) return true;
    if (hooks.renewsHandles) list.dropObjects(index, 1);
    const corruption = hooks.inspect(index);
    if (corruption !== null) {
      // Quarantine before the report: the log is user code, which may call the pool. So check the state again after it.
      try {
        this.#core.quarantine(index);
      } catch (error) {
        // It stays free, and the next allocation inspects it again.
        list.push(index);
        throw error;
      }
      this.#report(`${name} corrupted`, `${corruption}\n  (found by worker ${String(this.worker)})`);
      observer?.event('corrupted', this, index);
      if (hooks.quarantines || this.gone || this.#core.isDestroyed() || list.word(index) !== QUARANTINED) return false;
      this.#core.unquarantine(index);
    }
    hooks.allocated(index);
    return true;
  }

  prepare(count: number, grow: boolean): number {
    this.checkNotGone();
    if (this.#core.isDestroyed()) throw this.#stopDestroyed();
    const refusal = this.#core.prepare(count, grow);
    if (refusal === POOL_DESTROYED) throw this.#stopDestroyed();
    return this.#reported(refusal);
  }

  /** Reports pages that this call opened, and its refusal, to the observer. */
  #reported(result: number): number {
    if (observer === undefined) return result;
    for (; this.#pagesReported < this.#core.pagesOpened; this.#pagesReported++) observer.event('page', this, null);
    if (result < 0) observer.event('exhausted', this, result);
    return result;
  }

  drain(index: number): void {
    if (this.#isGone() || !this.#isMine(index)) throw this.badFree(index);
    this.#hooks?.freed(index);
    // The block is free once `freeSlow` starts. A timeout of its flush is no failure of this free.
    try {
      this.#core.freeSlow(index);
      if (this.#waits.any) this.#waits.pump();
    } catch (error) {
      if (!(error instanceof DmaTimeoutError)) throw error;
    }
    if (this.#core.isDestroyed()) this.#drained();
  }

  /** Handles a free in a destroyed pool. A method of its own: a closure in `drain` would allocate an object in each call. */
  #drained(): void {
    tryLocked(() => {
      this.#stop();
    });
    if (this.#options.list.out === 0) this.#onLastFree();
  }

  #isMine(index: number): boolean {
    const word = this.#options.control.words[index];
    return Number.isInteger(index) && word !== undefined && holderOf(word) === this.worker && !isFlight(word);
  }

  badFree(index: number): DmaError {
    if (this.#declaredEnded) return this.#goneError();
    if (!this.pages.has(index)) return this.pages.noSuchBlock(index);
    const word = Atomics.load(this.#options.control.words, index);
    const holder = holderOf(word);
    if (holder === 0) return notAllocated(this.pages, index, word, this.history(index));
    const block = this.pages.describe(index);
    const thread = this.#figures.threadOf(holder);
    return new DmaBlockError(
      'ERR_DMAPOOL_NOT_OWNER',
      isFlight(word)
        ? `${block} is in transit from worker ${String(holder)} (thread ${thread}); the worker that accepts or recalls it may free it`
        : `${block} belongs to worker ${String(holder)} (thread ${thread}); only that worker may free it`,
    );
  }

  /** The message lists no idle pages of other pools: `share()` took all pages, so memory never runs out here. */
  refused(refusal: number, count = 1): DmaOutOfMemoryError {
    const elsewhere = refusal === AT_LIMIT ? this.#figures.idleOfOthers() : [];
    const idle = elsewhere.length === 0 ? '' : `; idle in magazines: ${elsewhere.join(', ')}`;
    return refusalError(refusal, count, this.#options, this.counts(), idle);
  }

  // ---- waiting

  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T> {
    return this.#waits.wait(wrap, options);
  }

  /** Polls, and continues at each event of H_EVENTS and after each {@link POLL_INTERVAL}. */
  #onEvents(): void {
    const seen = Atomics.load(this.#header, H_EVENTS);
    this.#guarded(() => {
      this.#poll();
    });
    if (this.#left ? !this.#leaving : this.#released) return;
    onceChanged(this.#header, H_EVENTS, seen, POLL_INTERVAL, () => {
      this.#onEvents();
    });
  }

  #poll(): void {
    pollExits();
    if (this.#leaving) this.#detach();
    if (this.#isGone()) return;
    if (this.#deadToRecover || this.#core.hasOrphans()) this.#recoverDead(EVENT_LOCK_TIMEOUT);
    this.#core.storeCounts();
    // Serves waiters and requests of other workers.
    this.#core.returnIdleBlocks();
    this.#waits.dropTickets();
    if (this.#core.isDestroyed()) {
      this.#stop();
      this.#waits.pump();
      this.#releaseIfUnused();
    }
  }

  /** Runs a callback of an event. Reports its errors, because the runtime would skip other listeners and end the process. */
  #guarded(action: () => void): void {
    try {
      action();
    } catch (error) {
      // The lock's holder is busy or dead. A later event does the remaining work.
      if (error instanceof DmaTimeoutError) return;
      const { name } = this.#options;
      this.#report(`${name} event`, `${name}: in an event: ${describeThrown(error)}`);
    }
  }

  /** Writes to the device's log, which is user code. Ignores its errors. */
  #report(kind: string, message: string): void {
    try {
      this.#options.device.report('error', kind, message);
    } catch {
      // There is no other log.
    }
  }

  // ---- transfers

  /** Puts a block in transit. Returns its ticket. */
  transfer(index: number): number {
    const ticket = this.#isGone() ? -1 : this.#core.transfers.transferOut(index);
    if (ticket < 0) throw this.badFree(index);
    return ticket;
  }

  /** Accepts a block. Returns its index. */
  accept(ticket: number): number {
    checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
    this.checkNotGone();
    const index = this.#core.transfers.transferIn(ticket);
    if (index < 0) throw this.#notInTransit(ticket);
    return index;
  }

  /** Accepts all of `tickets[0..count)` and stores their indices in `into`, or accepts none. */
  acceptAll(tickets: Float64Array, into: Int32Array, count: number): void {
    this.checkNotGone();
    const missing = this.#core.acceptAll(tickets, into, count);
    if (missing >= 0) throw this.#notInTransit(missing);
  }

  #notInTransit(ticket: number): DmaSharingError {
    return new DmaSharingError(
      'ERR_DMAPOOL_BAD_TICKET',
      `${this.#label}: block ${String(indexOfTicket(ticket))} is not in transit from worker ` +
        `${String(giverOfTicket(ticket))} with this ticket: it was accepted or recalled, or its giver died`,
    );
  }

  /** Blocks in transit from this worker. */
  inTransit(): readonly TransitEntry[] {
    return this.#isGone() ? this.#resultWhenGone([]) : this.#core.transfers.inTransit();
  }

  /** Recalls blocks in transit from this worker. Returns their indices. */
  recall(tickets?: readonly number[]): number[] {
    for (const ticket of tickets ?? []) checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
    return this.#isGone() ? this.#resultWhenGone([]) : this.#core.recall(tickets);
  }

  // ---- exits of workers

  watchWorker(worker: WatchableWorker): void {
    let recorded = true;
    const thread = monitorWorker(worker, (ended) => {
      this.#guarded(() => {
        if (!recorded) this.#core.countUnrecordedExit();
        this.#onThreadEnd(ended, EVENT_LOCK_TIMEOUT);
      });
    });
    recorded = this.#core.recordChild(thread);
    if (recorded) return;
    throw new DmaOutOfMemoryError(
      'ERR_DMAPOOL_LIMIT',
      `${this.#label}: ${String(MAX_THREAD_PAIRS)} threads are watched; thread ${String(thread)} can't be recorded`,
    );
  }

  onWorkerExit(listener: (exit: WorkerExit) => void): () => void {
    checkFunction('listener', listener);
    const entry = { listener };
    this.#exitListeners.add(entry);
    return () => {
      this.#exitListeners.delete(entry);
    };
  }

  reportWorkerExit(thread: number): readonly WorkerExit[] {
    if (this.#isGone()) return this.#resultWhenGone([]);
    const why = this.#core.whyAlive(thread);
    if (why !== null) {
      throw new DmaSharingError(
        'ERR_DMAPOOL_THREAD_ALIVE',
        `${this.#label}: thread ${String(thread)} is alive: ${why}`,
      );
    }
    return this.#onThreadEnd(thread);
  }

  /** Marks dead the workers of an exited thread, and recovers them now or at a later event or call. */
  #onThreadEnd(thread: number, timeout?: number): readonly WorkerExit[] {
    this.#core.markDead(thread);
    // Workers that are still attached recover them.
    return this.gone ? [] : this.#recoverDead(timeout);
  }

  #recoverDead(timeout?: number): readonly WorkerExit[] {
    this.#deadToRecover = true;
    let exits: readonly WorkerExit[] = [];
    tryLocked(() => {
      exits = this.#core.recoverDead(timeout);
      this.#deadToRecover = false;
    });
    this.#reportExits(exits);
    return exits;
  }

  /** Reports exits, and releases the memory of a destroyed pool if they were its last users. */
  #reportExits(exits: readonly WorkerExit[]): void {
    const { hooks, name } = this.#options;
    for (const exit of exits) {
      if (exit.out.length > 0) {
        const blocks = this.#figures.list(exit.out);
        this.#report(
          `${name} worker died`,
          `${name}: worker ${String(exit.worker)} (thread ${String(exit.thread)}) died with ` +
            `${String(exit.out.length)} blocks out: ${blocks}${hooks?.holders(exit.out) ?? ''}; once the device is reset, call reclaim()`,
        );
      }
    }
    try {
      if (this.#core.isDestroyed()) this.#releaseIfUnused();
    } finally {
      // Last, and all of them even if one throws: listeners are user code.
      for (const exit of exits) {
        observer?.event('worker-exit', this, exit);
        for (const { listener } of [...this.#exitListeners]) {
          try {
            listener(exit);
          } catch (error) {
            this.#report(`${name} listener`, `${name}: a listener of onWorkerExit threw ${describeThrown(error)}`);
          }
        }
      }
    }
  }

  reclaim(): number {
    if (this.#isGone()) return this.#resultWhenGone(0);
    const { count, exits } = this.#core.reclaim();
    this.#deadToRecover = false;
    this.#reportExits(exits);
    return count;
  }

  #reclaimPages(): number {
    this.#removeReclaimListener = this.#options.device.onReclaim(() => this.#reclaimPages());
    if (this.#left || this.#released) return 0;
    const pages = this.#options.handle.pages.length / PER_PAGE_ENTRY;
    this.reclaim();
    // If the pool is destroyed, reclaim this worker's blocks too. The memory is released unless other workers are
    // attached.
    if (this.#core.isDestroyed() && !this.#released && this.#options.release !== null) {
      this.#core.reclaimOwn();
      this.#releaseIfUnused();
    }
    // `reclaim` and `#releaseIfUnused` may have changed it, which TypeScript does not track.
    return this.gone ? pages : 0;
  }

  // ---- destroy

  destroy(): void {
    if (this.#options.release === null || this.#isGone()) {
      this.#leave();
      return;
    }
    if (!this.#core.destroy()) return;
    // Stop the list and the waits before the report: the log is user code and may call the pool. If the lock is not
    // available, the event loop does the rest.
    tryLocked(() => {
      this.#stop();
    });
    tryLocked(() => {
      this.#waits.pump();
    });
    this.#reportBusy(this.#core.indicesOut());
    this.#releaseIfUnused();
  }

  #reportBusy(out: readonly number[]): void {
    const { name } = this.#options;
    if (out.length === 0) return;
    this.#report(`${name} busy`, `${name} busy: ${this.holders(out)}`);
    observer?.event('leak', this, out.length);
  }

  /** Holds the list, so that every call takes the slow path and fails, and flushes the magazine. */
  #stop(): void {
    this.#options.list.hold();
    this.#core.flush(MAX_BLOCKS);
  }

  /** Runs after the last free of this worker in a destroyed pool. */
  #onLastFree(): void {
    if (this.#options.release === null) this.#core.announceEnd();
    else this.#releaseIfUnused();
  }

  /** Releases the memory, in the creator, when no block is allocated and no other worker is attached. */
  #releaseIfUnused(): void {
    const { release } = this.#options;
    if (release === null || this.#released) return;
    if (this.#core.indicesOut().length > 0 || this.#figures.othersAttached) return;
    this.#released = true;
    this.#removeWorkerListener();
    this.#removeReclaimListener();
    release();
  }

  /** Detaches this worker. Its allocated blocks are kept as those of a dead worker. */
  #leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#removeWorkerListener();
    this.#removeReclaimListener();
    this.#options.list.hold();
    this.#leaving = true;
    // After `#left`: rejected waits run user code, which may call the pool.
    this.#waits.failAll();
    // If the lock is not available, the event loop does it.
    tryLocked(() => {
      this.#detach();
    });
  }

  #detach(): void {
    if (this.#core.isMember()) this.#reportBusy(this.#core.detach());
    this.#leaving = false;
  }

  /** Leaves the pool after this live worker was marked dead. */
  #abandon(): void {
    this.#declaredEnded = true;
    this.#left = true;
    this.#core.abandon();
    this.#removeWorkerListener();
    this.#removeReclaimListener();
    this.#waits.failAll();
    this.#report(`${this.#options.name} declared ended`, this.#goneError().message);
  }

  /** True if this worker has left the pool or its memory was released. Detects that it was marked dead. */
  #isGone(): boolean {
    if (!this.gone && !this.#core.isMember()) this.#abandon();
    return this.gone;
  }

  /** Result of a call that does nothing after the worker left. */
  #resultWhenGone<T>(value: T): T {
    if (this.#declaredEnded) throw this.#goneError();
    return value;
  }

  #goneError(): DmaDestroyedError | DmaSharingError {
    if (!this.#declaredEnded) return this.#destroyedError();
    return new DmaSharingError(
      'ERR_DMAPOOL_DECLARED_ENDED',
      `${this.#label}: worker ${String(this.worker)} is alive, but reportWorkerExit() was called for it; attach again`,
    );
  }

  #destroyedError(): DmaDestroyedError {
    return new DmaDestroyedError(`${this.#label} was destroyed`);
  }

  checkNotGone(): void {
    if (this.#isGone()) throw this.#goneError();
  }

  // ---- statistics

  history(index: number): string {
    return this.#options.hooks?.history(index) ?? '';
  }

  /** The records of debug mode; null: off. */
  get book(): DebugBook | null {
    const { hooks } = this.#options;
    return hooks instanceof DebugHooks ? hooks.book : null;
  }

  holders(out: readonly number[] = this.#core.indicesOut()): string {
    return this.#figures.holders(out);
  }

  reserve(count: number): void {
    checkInteger('count', count, 0, MAX_BLOCKS);
    const refusal = this.prepare(count, true);
    if (refusal < 0) throw this.refused(refusal, count);
  }

  trim(): number {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_TRIMMABLE',
      `${this.#label}: a shared pool keeps its pages, because other workers use them`,
    );
  }

  idlePages(): number {
    return 0;
  }

  ownerOf(index: number): string {
    const word = Atomics.load(this.#options.control.words, index);
    const holder = holderOf(word);
    if (holder === 0) return 'not allocated';
    return `${isFlight(word) ? 'in transit from' : 'owned by'} worker ${String(holder)}`;
  }

  counts(): PoolCounts {
    const perPage = this.#options.geometry.blocksPerPage;
    const out = this.#core.indicesOut();
    // Load the pages after the blocks, since other workers continue: active <= blocks = pages * perPage.
    const opened = this.#released ? 0 : Atomics.load(this.#header, H_PAGES);
    const pages = Math.max(opened, Math.floor((out.at(-1) ?? -1) / perPage) + 1);
    return { active: out.length, blocks: pages * perPage, pages };
  }

  statistics(): PoolStatistics {
    return this.#figures.statistics(this.counts(), this.#core.allocations);
  }
}
