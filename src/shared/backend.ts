/** The backend of one worker's side of a shared pool: the shared core with promises, messages and errors around it. */
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
import { type ListControl, QUARANTINED } from '../pool/free-list.ts';
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
import { type Control, H_EVENTS, H_PAGES, holderOf, isFlight, MAX_KIN } from './layout.ts';
import { SharedFigures } from './figures.ts';
import { POOL_DESTROYED, SharedCore } from './core.ts';
import type { WorkerExit } from './recovery.ts';
import { giverOfTicket, indexOfTicket, type TransitEntry } from './transfers.ts';
import { LOOK_AGAIN, SharedWaits, tryLocked } from './waits.ts';
import {
  currentThread,
  lookForEnds,
  monitorWorker,
  onceChanged,
  onWorkerMade,
  type WatchableWorker,
} from './threads.ts';

/** What one worker's side of a shared pool is made of. */
export interface SharedBackendOptions extends BackendOptions {
  readonly pages: PoolPages;
  readonly control: Control;
  readonly list: ListControl;
  readonly worker: number;
  readonly magazine: number;
  readonly mostMagazine: number;
  readonly mayPark: boolean;
  /** What is done to each block that changes hands. */
  readonly hooks: BlockHooks | null;
  /** What this worker gives to others. */
  readonly handle: SharedPoolHandle;
  /** Gives the memory back; null in workers that attached. */
  readonly release: (() => void) | null;
}

/** How often a call at the limit requests idle blocks of the other workers before it is refused. */
const REQUESTS = 2;
/**
 * Milliseconds for which an event tries to get the lock in order to recover the dead. Its holder may have died too, with
 * its exit event next in the queue, so waiting for long is of no use.
 */
const EVENT_PATIENCE = 20;

export class SharedBackend extends BackendBase implements PoolBackend {
  readonly #options: SharedBackendOptions;
  #hooks: BlockHooks | null = null;
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #label: string;
  readonly #core: SharedCore;
  readonly #figures: SharedFigures;
  readonly #waits: SharedWaits;
  readonly #exitListeners = new Set<{ readonly listener: (exit: WorkerExit) => void }>();
  /** Of the pages that this worker opened, those that an observer was told of. */
  #pagesTold = 0;
  #left = false;
  #released = false;
  /** Another worker declared this one ended, though it lives. */
  #declaredEnded = false;
  /** It left, but the lock could not be had yet to give back what it had. */
  #leaving = false;
  /** Workers were marked dead here, but the lock could not be had yet to recover what they had. */
  #deadToRecover = false;
  readonly #forgetWorkers: () => void;
  #forgetReclaim: () => void;

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
      dress: (index) => this.#dress(index),
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
    this.#forgetWorkers = onWorkerMade((made) => {
      this.#guarded(() => {
        this.watchWorker(made);
      });
    });
    this.#forgetReclaim = device.onReclaim(() => this.#reclaimPages());
    this.setHooks(options.hooks);
    // A predecessor in the slot may have left some.
    this.#deadToRecover = this.#core.hasWitnessed();
    this.#onEvents();
  }

  /** All that another worker needs to attach. */
  get handle(): SharedPoolHandle {
    return this.#options.handle;
  }

  get worker(): number {
    return this.#options.worker;
  }

  /** What this worker does to each block that changes hands. */
  get hooks(): BlockHooks | null {
    return this.#hooks;
  }

  /** Has `hooks` run on every block that this worker allocates or frees from now on; null for none. */
  setHooks(hooks: BlockHooks | null): void {
    this.#hooks = hooks;
    if (hooks !== null) this.#options.list.hold();
    else if (!this.gone && !this.#core.isDestroyed()) this.#options.list.release();
  }

  /** True once the pool was destroyed, in whichever worker. */
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
      if (index === AT_LIMIT && requests < REQUESTS && !this.#figures.someWait && this.#figures.mayIdleElsewhere()) {
        requests++;
        this.#core.requestIdleBlocks();
      } else if (index < 0 || this.#dress(index)) {
        return index;
      }
    }
  }

  #takeOne(grow: boolean, counts: boolean): number {
    const { list } = this.#options;
    // First, for the rest needs the lock.
    if (this.#core.isDestroyed()) throw this.#ended();
    // With hooks the magazine is held: each call comes here, also when there are blocks in it.
    const index = list.top >= 0 ? list.pop() : this.#core.refill(grow, counts);
    if (index === POOL_DESTROYED) throw this.#ended();
    return index;
  }

  /** The pool was destroyed elsewhere, and a slow call sees it: from now on every call is slow and sees it too. */
  #ended(): DmaDestroyedError {
    tryLocked(() => {
      this.#stop();
    });
    return this.#destroyedError();
  }

  /** Lets the hooks have a block that was just taken. False if it was quarantined instead. */
  #dress(index: number): boolean {
    const { list, name } = this.#options;
    const hooks = this.#hooks;
    if (hooks === null) return true;
    if (hooks.renewsHandles) list.dropObject(index);
    const trouble = hooks.inspect(index);
    if (trouble !== null) {
      // Into quarantine first, so that the log finds a pool in order; whatever it does there, look again afterwards.
      try {
        this.#core.quarantine(index);
      } catch (error) {
        // It stays free and gets inspected again.
        list.push(index);
        throw error;
      }
      this.#report(`${name} corrupted`, `${trouble}\n  (seen by worker ${String(this.worker)})`);
      observer?.event('corrupted', this, index);
      if (hooks.quarantines || this.gone || this.#core.isDestroyed() || list.word(index) !== QUARANTINED) return false;
      this.#core.unquarantine(index);
    }
    hooks.allocated(index);
    return true;
  }

  prepare(count: number, grow: boolean): number {
    this.checkNotGone();
    if (this.#core.isDestroyed()) throw this.#ended();
    const refusal = this.#core.prepare(count, grow);
    if (refusal === POOL_DESTROYED) throw this.#ended();
    return this.#reported(refusal);
  }

  /** Tells the observer, if there is one, of a page that this call opened, and of its refusal. */
  #reported(result: number): number {
    if (observer === undefined) return result;
    for (; this.#pagesTold < this.#core.pagesOpened; this.#pagesTold++) observer.event('page', this, null);
    if (result < 0) observer.event('exhausted', this, result);
    return result;
  }

  drain(index: number): void {
    if (this.#isOut() || !this.#isMine(index)) throw this.badFree(index);
    this.#hooks?.freed(index);
    // It is free from here on; that the rest of the magazine could not be moved just now is no failure of this free.
    try {
      this.#core.freeSlow(index);
      if (this.#waits.any) this.#waits.pump();
    } catch (error) {
      if (!(error instanceof DmaTimeoutError)) throw error;
    }
    if (this.#core.isDestroyed()) this.#drained();
  }

  /** A block came back to a pool that was destroyed. Apart from `drain`, in which a closure would cost each call an object. */
  #drained(): void {
    tryLocked(() => {
      this.#stop();
    });
    if (this.#options.list.out === 0) this.#last();
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

  /** Never for want of memory: `share()` took all pages, so the idle pages of other pools are not named here. */
  refused(refusal: number, count = 1): DmaOutOfMemoryError {
    const elsewhere = refusal === AT_LIMIT ? this.#figures.idleElsewhere() : [];
    const idle = elsewhere.length === 0 ? '' : `; idle in magazines: ${elsewhere.join(', ')}`;
    return refusalError(refusal, count, this.#options, this.counts(), idle);
  }

  // ---- waiting

  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T> {
    return this.#waits.wait(wrap, options);
  }

  /** On the event loop: whenever somebody announces an event, and now and then. */
  #onEvents(): void {
    const seen = Atomics.load(this.#header, H_EVENTS);
    this.#guarded(() => {
      this.#look();
    });
    if (this.#left ? !this.#leaving : this.#released) return;
    onceChanged(this.#header, H_EVENTS, seen, LOOK_AGAIN, () => {
      this.#onEvents();
    });
  }

  #look(): void {
    lookForEnds();
    if (this.#leaving) this.#detach();
    if (this.#isOut()) return;
    if (this.#deadToRecover || this.#core.hasOrphans()) this.#recoverDead(EVENT_PATIENCE);
    this.#core.storeCounts();
    // Others wait and want what idles here.
    this.#core.returnIdleBlocks();
    this.#waits.dropTickets();
    if (this.#core.isDestroyed()) {
      this.#stop();
      this.#waits.pump();
      this.#releaseIfUnused();
    }
  }

  /** Runs what an event calls. The runtime would end the process for whatever it throws, and skip other listeners. */
  #guarded(action: () => void): void {
    try {
      action();
    } catch (error) {
      // The lock's holder is busy or dead; what is left to do is done at a later event.
      if (error instanceof DmaTimeoutError) return;
      const { name } = this.#options;
      this.#report(`${name} event`, `${name}: at an event of the runtime: ${describeThrown(error)}`);
    }
  }

  /** Reports an error; the log is the user's code, and whatever it throws changes nothing here. */
  #report(kind: string, message: string): void {
    try {
      this.#options.device.report('error', kind, message);
    } catch {
      // There is nowhere to say so.
    }
  }

  // ---- from worker to worker

  /** Puts a block in transit, and returns its ticket. */
  transfer(index: number): number {
    const ticket = this.#isOut() ? -1 : this.#core.transfers.transferOut(index);
    if (ticket < 0) throw this.badFree(index);
    return ticket;
  }

  /** Accepts a block, and returns its index. */
  accept(ticket: number): number {
    checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
    this.checkNotGone();
    const index = this.#core.transfers.transferIn(ticket);
    if (index < 0) throw this.#notInTransit(ticket);
    return index;
  }

  /** Accepts all of `tickets[0..count)` and puts their indices into `into`, or none. */
  acceptAll(tickets: Float64Array, into: Int32Array, count: number): void {
    this.checkNotGone();
    const missing = this.#core.acceptAll(tickets, into, count);
    if (missing >= 0) throw this.#notInTransit(missing);
  }

  #notInTransit(ticket: number): DmaSharingError {
    return new DmaSharingError(
      'ERR_DMAPOOL_BAD_TICKET',
      `${this.#label}: block ${String(indexOfTicket(ticket))} is not in transit from worker ` +
        `${String(giverOfTicket(ticket))} by this ticket: it was accepted or recalled, or its giver died`,
    );
  }

  /** Blocks that this worker gave and none has accepted. */
  inTransit(): readonly TransitEntry[] {
    return this.#isOut() ? this.#nothing([]) : this.#core.transfers.inTransit();
  }

  /** Takes blocks in transit back; returns their indices. */
  recall(tickets?: readonly number[]): number[] {
    for (const ticket of tickets ?? []) checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
    return this.#isOut() ? this.#nothing([]) : this.#core.recall(tickets);
  }

  // ---- deaths

  watchWorker(worker: WatchableWorker): void {
    let recorded = true;
    const thread = monitorWorker(worker, (ended) => {
      this.#guarded(() => {
        if (!recorded) this.#core.disown();
        this.#onThreadEnd(ended, EVENT_PATIENCE);
      });
    });
    recorded = this.#core.adopt(thread);
    if (recorded) return;
    throw new DmaOutOfMemoryError(
      'ERR_DMAPOOL_LIMIT',
      `${this.#label}: ${String(MAX_KIN)} threads are watched, so the workers of thread ${String(thread)} can't be recorded`,
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
    if (this.#isOut()) return this.#nothing([]);
    const why = this.#core.whyAlive(thread);
    if (why !== null) {
      throw new DmaSharingError(
        'ERR_DMAPOOL_THREAD_ALIVE',
        `${this.#label}: thread ${String(thread)} has not ended: ${why}`,
      );
    }
    return this.#onThreadEnd(thread);
  }

  /** A thread ended. If the lock can't be had now, its workers are recovered at a later event or call. */
  #onThreadEnd(thread: number, patience?: number): readonly WorkerExit[] {
    this.#core.markDead(thread);
    // Those who are still attached do the rest.
    return this.gone ? [] : this.#recoverDead(patience);
  }

  #recoverDead(patience?: number): readonly WorkerExit[] {
    this.#deadToRecover = true;
    let exits: readonly WorkerExit[] = [];
    tryLocked(() => {
      exits = this.#core.recoverDead(patience);
      this.#deadToRecover = false;
    });
    this.#reportExits(exits);
    return exits;
  }

  /** Reports deaths, and gives the memory of a destroyed pool back if they were what it waited for. */
  #reportExits(exits: readonly WorkerExit[]): void {
    const { hooks, name } = this.#options;
    for (const exit of exits) {
      if (exit.out.length > 0) {
        const blocks = this.#figures.list(exit.out);
        this.#report(
          `${name} worker died`,
          `${name}: worker ${String(exit.worker)} (thread ${String(exit.thread)}) died with ` +
            `${String(exit.out.length)} blocks out: ${blocks}${hooks?.holders(exit.out) ?? ''}; reclaim() takes them back once the device is quiet`,
        );
      }
    }
    try {
      if (this.#core.isDestroyed()) this.#releaseIfUnused();
    } finally {
      // Last, and each, whatever it throws: it is the user's code.
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
    if (this.#isOut()) return this.#nothing(0);
    const { count, exits } = this.#core.reclaim();
    this.#deadToRecover = false;
    this.#reportExits(exits);
    return count;
  }

  #reclaimPages(): number {
    this.#forgetReclaim = this.#options.device.onReclaim(() => this.#reclaimPages());
    if (this.#left || this.#released) return 0;
    const pages = this.#options.handle.pages.length / PER_PAGE_ENTRY;
    this.reclaim();
    // A pool that was destroyed is given up whole, unless other workers are still there.
    if (this.#core.isDestroyed() && !this.#released && this.#options.release !== null) {
      this.#core.reclaimOwn();
      this.#releaseIfUnused();
    }
    // (`reclaim` and `#releaseIfUnused` may have changed what TypeScript takes for settled.)
    return this.gone ? pages : 0;
  }

  // ---- the end

  destroy(): void {
    if (this.#options.release === null || this.#isOut()) {
      this.#leave();
      return;
    }
    if (!this.#core.destroy()) return;
    // The list and the waits first: the log is the user's code, and what it calls must find a pool that was destroyed. If
    // the lock can't be had now, the event loop does the rest.
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

  /** Every call takes the slow path from now on, which knows that the pool was destroyed. */
  #stop(): void {
    this.#options.list.hold();
    this.#core.flush(MAX_BLOCKS);
  }

  /** The last block of this worker came back to a pool that was destroyed. */
  #last(): void {
    if (this.#options.release === null) this.#core.announceEnd();
    else this.#releaseIfUnused();
  }

  /** The creator gives the memory back once nobody can touch it. */
  #releaseIfUnused(): void {
    const { release } = this.#options;
    if (release === null || this.#released) return;
    if (this.#core.indicesOut().length > 0 || this.#figures.othersAttached) return;
    this.#released = true;
    this.#forgetWorkers();
    this.#forgetReclaim();
    release();
  }

  /** A worker that attached leaves; what it has out is kept as if it had died. */
  #leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#forgetWorkers();
    this.#forgetReclaim();
    this.#options.list.hold();
    this.#leaving = true;
    // Only now: signals are the user's code, and what it calls must find a worker that left.
    this.#waits.failAll();
    // If the lock can't be had now, the event loop does it.
    tryLocked(() => {
      this.#detach();
    });
  }

  #detach(): void {
    if (this.#core.isMember()) this.#reportBusy(this.#core.detach());
    this.#leaving = false;
  }

  /** Another worker declared this one ended: nothing in the pool is its own any more. */
  #abandon(): void {
    this.#declaredEnded = true;
    this.#left = true;
    this.#core.abandon();
    this.#forgetWorkers();
    this.#forgetReclaim();
    this.#waits.failAll();
    this.#report(`${this.#options.name} forsaken`, this.#goneError().message);
  }

  /** True if this worker has no part in the pool any more. Sees here that it was declared ended. */
  #isOut(): boolean {
    if (!this.gone && !this.#core.isMember()) this.#abandon();
    return this.gone;
  }

  /** For calls that do nothing after the end of the pool. */
  #nothing<T>(value: T): T {
    if (this.#declaredEnded) throw this.#goneError();
    return value;
  }

  #goneError(): DmaDestroyedError | DmaSharingError {
    if (!this.#declaredEnded) return this.#destroyedError();
    return new DmaSharingError(
      'ERR_DMAPOOL_DECLARED_ENDED',
      `${this.#label}: worker ${String(this.worker)} was declared ended by reportWorkerExit(), but lives; it is out of the pool`,
    );
  }

  #destroyedError(): DmaDestroyedError {
    return new DmaDestroyedError(`${this.#label} was destroyed`);
  }

  checkNotGone(): void {
    if (this.#isOut()) throw this.#goneError();
  }

  // ---- figures, and where things are

  history(index: number): string {
    return this.#options.hooks?.history(index) ?? '';
  }

  /** What debug mode remembers of each block; null when it is off. */
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
      `${this.#label}: a shared pool keeps its pages, because another worker may be about to use one`,
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
    // After the blocks, and not less than they take: others go on meanwhile. So active <= blocks = pages * perPage.
    const opened = this.#released ? 0 : Atomics.load(this.#header, H_PAGES);
    const pages = Math.max(opened, Math.floor((out.at(-1) ?? -1) / perPage) + 1);
    return { active: out.length, blocks: pages * perPage, pages };
  }

  statistics(): PoolStatistics {
    return this.#figures.statistics(this.counts(), this.#core.allocations);
  }
}
