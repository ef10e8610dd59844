/** What a shared pool is to one worker: the shared core with promises, messages and errors around it. */
import { checkInteger } from '../arguments.ts';
import type { Device } from '../device/device.ts';
import {
  DmaArgumentError,
  DmaBlockError,
  DmaDestroyedError,
  type DmaError,
  DmaOutOfMemoryError,
  DmaTimeoutError,
  hex,
} from '../errors.ts';
import type { DebugBook } from '../pool/debug-book.ts';
import { DebugHooks } from '../pool/debug-hooks.ts';
import { type ListControl, QUARANTINED } from '../pool/free-list.ts';
import type { PoolGeometry } from '../pool/geometry.ts';
import { type BlockHooks, listBlocks } from '../pool/hooks.ts';
import { MAX_BLOCKS } from '../pool/hot-path.ts';
import type { PoolPages } from '../pool/pool-pages.ts';
import type { PoolStore, Sharing } from '../pool/pool-store.ts';
import { refusalError } from '../pool/refusal.ts';
import { AT_LIMIT, checkGfp, type Gfp, type PoolCounts } from '../pool/slow-path.ts';
import type { PoolStatistics } from '../pool/statistics.ts';
import { checkWaitOptions, type WaitOptions, WaitQueue } from '../pool/wait-queue.ts';
import { Depot } from './depot.ts';
import { PER_PAGE_ENTRY, type SharedPoolHandle } from './handle.ts';
import {
  ATTACHED,
  type Control,
  H_CORRUPTED,
  H_EVENTS,
  H_FAILURES,
  H_HIGH_WATER,
  H_PAGES,
  H_QUARANTINED,
  H_SUPPLY,
  H_WAITS,
  holderOf,
  isFlight,
  MAX_WORKERS,
  NO_WORKER,
} from './layout.ts';
import { type DeathReport, POOL_DESTROYED, SharedCore } from './shared-core.ts';
import { onceChanged, onWorkerMade, watchWorker, type WatchableWorker } from './threads.ts';
import { Tickets } from './tickets.ts';
import { encodeTicket, giverOf, indexOfTicket, wayOfTicket } from './transfer-ticket.ts';
import { Workers } from './workers.ts';

/** What one worker's side of a shared pool is made of. */
export interface SharedStoreOptions {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly maxBlocks: number;
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

/** How often a call at the limit asks the others, a moment each time, before it is refused. */
const ASKS = 2;
/** Milliseconds after which those who wait, and those who may be asked to share, look again without being told. */
const LOOK_AGAIN = 100;

export class SharedStore implements PoolStore, Sharing {
  readonly #options: SharedStoreOptions;
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #label: string;
  readonly #core: SharedCore;
  readonly #workers: Workers;
  readonly #queue: Tickets;
  readonly #depot: Depot;
  readonly #waiters: WaitQueue;
  /** Tickets of those who wait here, in the order of `#waiters`. */
  readonly #tickets: number[] = [];
  /** Tickets of those who gave up, still in the queue. */
  readonly #dropped: number[] = [];
  readonly pages: PoolPages;
  readonly #deathListeners = new Set<{ readonly listener: (report: DeathReport) => void }>();
  // Kept, so that accepting many makes no garbage.
  #arriving = new Int32Array(0);
  #ways = new Int32Array(0);
  #left = false;
  #released = false;
  #listening = false;
  readonly #forgetWorkers: () => void;
  #forgetReclaim: () => void;

  constructor(options: SharedStoreOptions) {
    const { control, device, list, magazine, mayPark, mostMagazine, name, pages, worker } = options;
    this.#options = options;
    this.#header = control.header;
    this.#label = `${device.name}: pool ${name}`;
    this.pages = pages;
    this.#core = new SharedCore({ control, list, worker, magazine, mostMagazine, mayPark });
    this.#workers = new Workers(control.header);
    this.#queue = new Tickets(control.header);
    this.#depot = new Depot(control);
    this.#waiters = new WaitQueue(this.#label);
    this.#forgetWorkers = onWorkerMade((made) => {
      this.watch(made);
    });
    this.#forgetReclaim = device.onReclaim(() => this.#reclaimPages());
    if (options.hooks !== null) list.hold();
    this.#heedEvents();
  }

  get sharing(): Sharing {
    return this;
  }

  handle(): SharedPoolHandle {
    this.#checkNotLeft();
    return this.#options.handle;
  }

  get worker(): number {
    return this.#options.worker;
  }

  get gone(): boolean {
    return this.#released || this.#left;
  }

  // ---- allocating and freeing

  refill(gfp: Gfp): number {
    return this.#take(gfp, true);
  }

  #take(gfp: Gfp, counts: boolean): number {
    checkGfp(gfp);
    for (let asked = 0; ;) {
      this.#checkNotLeft();
      const index = this.#takeOne(gfp, counts);
      if (index === AT_LIMIT && asked < ASKS && !this.#queue.any && this.#mayIdleElsewhere()) {
        asked++;
        this.#core.ask();
      } else if (index < 0 || this.#dress(index)) {
        return index;
      }
    }
  }

  /** By what the others said last, which may be out of date. */
  #mayIdleElsewhere(): boolean {
    return this.#workers.in(ATTACHED).some((worker) => worker !== this.worker && this.#workers.idleOf(worker) > 0);
  }

  /** Who has blocks at hand, in words; exact when they do nothing. */
  #idleElsewhere(): string[] {
    return this.#workers
      .in(ATTACHED)
      .filter((worker) => worker !== this.worker)
      .map((worker) => ({ worker, idle: this.#depot.idleOf(worker) }))
      .filter(({ idle }) => idle > 0)
      .map(({ worker, idle }) => `${String(idle)} in worker ${String(worker)}`);
  }

  #takeOne(gfp: Gfp, counts: boolean): number {
    const { list } = this.#options;
    // With hooks the magazine is held: each call comes here, also when there are blocks in it.
    const index = list.top >= 0 && !this.#core.isDestroyed() ? list.pop() : this.#core.refill(gfp, counts);
    if (index === POOL_DESTROYED) throw this.#destroyedError();
    return index;
  }

  /** Lets the hooks have a block that was just taken. False if it was quarantined instead. */
  #dress(index: number): boolean {
    const { device, hooks, list, name } = this.#options;
    if (hooks === null) return true;
    if (hooks.renewsHandles) list.dropObject(index);
    const trouble = hooks.inspect(index);
    if (trouble !== null) {
      // Into quarantine first, so that the log finds a pool in order; whatever it does there, look again afterwards.
      this.#core.quarantine(index);
      device.report('error', `${name} corrupted`, `${trouble}\n  (seen by worker ${String(this.worker)})`);
      if (hooks.quarantines || this.gone || this.#core.isDestroyed() || list.word(index) !== QUARANTINED) return false;
      this.#core.unquarantine(index);
    }
    hooks.allocated(index);
    return true;
  }

  prepare(count: number, gfp: Gfp): number {
    checkGfp(gfp);
    this.#checkNotLeft();
    const refusal = this.#core.prepare(count, gfp);
    if (refusal === POOL_DESTROYED) throw this.#destroyedError();
    return refusal;
  }

  drain(index: number): void {
    const { list } = this.#options;
    if (this.#left || !this.#isMine(index)) throw this.badFree(index);
    this.#options.hooks?.freed(index);
    // It is free from here on; that the rest of the magazine could not be moved just now is no failure of this free.
    try {
      this.#core.spill(index);
      if (this.#waiters.length > 0) this.#pump();
    } catch (error) {
      if (!(error instanceof DmaTimeoutError)) throw error;
    }
    if (this.#core.isDestroyed() && list.out === 0) this.#last();
  }

  #isMine(index: number): boolean {
    const word = this.#options.control.words[index];
    return Number.isInteger(index) && word !== undefined && holderOf(word) === this.worker && !isFlight(word);
  }

  badFree(index: number): DmaError {
    if (!this.pages.has(index)) return this.pages.noSuchBlock(index);
    const word = Atomics.load(this.#options.control.words, index);
    const holder = holderOf(word);
    const block = `${this.#label}: block ${String(index)} at ${hex(this.pages.dmaOf(index))}`;
    if (holder === 0) {
      return new DmaBlockError(
        'ERR_DMAPOOL_NOT_ALLOCATED',
        `${block} ${word === QUARANTINED ? 'is in quarantine' : 'is not allocated (freed twice?)'}${this.#options.hooks?.history(index) ?? ''}`,
      );
    }
    const thread = String(this.#workers.threadOf(holder));
    return new DmaBlockError(
      'ERR_DMAPOOL_NOT_OWNER',
      isFlight(word)
        ? `${block} is on its way from worker ${String(holder)} (thread ${thread}); who accepts it may free it`
        : `${block} belongs to worker ${String(holder)} (thread ${thread}); only that one may free it`,
    );
  }

  refused(refusal: number, count = 1): DmaOutOfMemoryError {
    const { device, geometry, maxBlocks } = this.#options;
    const error = refusalError(refusal, count, {
      label: this.#label,
      source: device.memory.name,
      allocation: geometry.allocation,
      mask: device.dmaMask,
      maxBlocks,
      counts: this.account(),
    });
    const idle = this.#idleElsewhere();
    if (refusal !== AT_LIMIT || idle.length === 0) return error;
    return new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', `${error.message}; idle in magazines: ${idle.join(', ')}`);
  }

  // ---- waiting

  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T> {
    try {
      const checked = checkWaitOptions(options);
      checked.signal?.throwIfAborted();
      this.#checkNotLeft();
      const give = (index: number): T => {
        if (checked.zero) this.pages.fill(index, 0);
        return wrap(index);
      };
      if (this.#waiters.length === 0 && !this.#queue.any) {
        const index = this.#take('kernel', false);
        if (index >= 0) return Promise.resolve(give(index));
      }
      const ticket = this.#core.draw();
      if (ticket === POOL_DESTROYED) throw this.#destroyedError();
      if (ticket < 0) throw new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', `${this.#label}: too many wait already`);
      this.#tickets.push(ticket);
      const waiting = this.#waiters.join(give, checked, (position) => {
        this.#dropped.push(this.#tickets.splice(position, 1)[0]!);
        this.#dropTickets();
      });
      this.#listen();
      return waiting;
    } catch (error) {
      // Rejected as thrown: a signal's reason need not be an Error.
      return Promise.reject(error);
    }
  }

  /** Leaves the queue for those who gave up. If the lock can't be had now, the next look at events does it. */
  #dropTickets(): void {
    for (let ticket = this.#dropped.at(-1); ticket !== undefined; ticket = this.#dropped.at(-1)) {
      if (
        !this.#tryLocked(() => {
          this.#core.giveUp(this.#dropped.at(-1)!);
        })
      )
        return;
      this.#dropped.pop();
    }
  }

  /** False if the lock could not be had for long: what is not urgent is done later. */
  #tryLocked(action: () => void): boolean {
    try {
      action();
      return true;
    } catch (error) {
      if (error instanceof DmaTimeoutError) return false;
      throw error;
    }
  }

  /** Serves those who wait here as long as it is their turn and there are blocks. */
  #pump(): void {
    while (this.#waiters.length > 0) {
      const index = this.#core.serve(this.#tickets[0]!);
      if (index === POOL_DESTROYED) {
        this.#tickets.length = 0;
        this.#waiters.failAll(this.#destroyedError());
      }
      if (index < 0) return;
      if (this.#dress(index)) {
        this.#tickets.shift();
        this.#waiters.deliver(index);
      } else {
        // The turn was spent on a block that went into quarantine.
        this.#tickets[0] = this.#core.draw();
      }
    }
  }

  #listen(): void {
    if (this.#listening) return;
    this.#listening = true;
    const look = (): void => {
      const seen = Atomics.load(this.#header, H_SUPPLY);
      this.#tryLocked(() => {
        this.#pump();
      });
      this.#listening = this.#waiters.length > 0;
      if (this.#listening) onceChanged(this.#header, H_SUPPLY, seen, LOOK_AGAIN, look);
    };
    look();
  }

  /** At the event loop: others wait and want what idles here, or the pool was destroyed. */
  #heedEvents(): void {
    if (this.#left) return;
    const seen = Atomics.load(this.#header, H_EVENTS);
    this.#tryLocked(() => {
      this.#core.heed();
      this.#dropTickets();
    });
    this.#core.publish();
    if (this.#core.isDestroyed()) {
      this.#stop();
      this.#pump();
      this.#releaseIfUnused();
      if (this.#released) return;
    }
    onceChanged(this.#header, H_EVENTS, seen, LOOK_AGAIN, () => {
      this.#heedEvents();
    });
  }

  // ---- from worker to worker

  transfer(index: number): number {
    const way = this.#left ? -1 : this.#core.transfer(index);
    if (way < 0) throw this.badFree(index);
    return encodeTicket(way, index);
  }

  accept(ticket: number): number {
    this.#checkNotLeft();
    checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
    const index = indexOfTicket(ticket);
    if (!this.pages.has(index) || !this.#core.accept(index, wayOfTicket(ticket))) throw this.#notOnItsWay(ticket);
    this.#renew(index);
    return index;
  }

  /** Accepts all of them and puts their indices into `into`, or none. */
  acceptAll(tickets: Float64Array, into: Int32Array, count: number): void {
    this.#checkNotLeft();
    if (this.#arriving.length < count) {
      this.#arriving = new Int32Array(count);
      this.#ways = new Int32Array(count);
    }
    // Looked at once: other threads may write to the caller's arrays.
    const indices = this.#arriving;
    const ways = this.#ways;
    for (let i = 0; i < count; i++) {
      const ticket = tickets[i]!;
      checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
      indices[i] = indexOfTicket(ticket);
      ways[i] = wayOfTicket(ticket);
      if (!this.pages.has(indices[i]!)) throw this.#notOnItsWay(ticket);
    }
    if (!this.#core.acceptAll(indices, ways, count)) throw this.#notOnItsWay(tickets[0]!);
    for (let i = 0; i < count; i++) {
      this.#renew(indices[i]!);
      into[i] = indices[i]!;
    }
  }

  /** In debug mode a block that arrives gets a new handle here, as one that is allocated does. */
  #renew(index: number): void {
    const { hooks, list } = this.#options;
    if (hooks?.renewsHandles === true) list.dropObject(index);
  }

  #notOnItsWay(ticket: number): DmaBlockError {
    const giver = giverOf(wayOfTicket(ticket));
    return new DmaBlockError(
      'ERR_DMAPOOL_BAD_TICKET',
      `${this.#label}: block ${String(indexOfTicket(ticket))} is not on its way from worker ${String(giver)} by this ` +
        'ticket: it was accepted already, or its giver died',
    );
  }

  // ---- deaths

  watch(worker: WatchableWorker): void {
    watchWorker(worker, (thread) => {
      if (!this.#left && !this.#released) this.workerEnded(thread);
    });
    this.#core.adopt(worker.threadId);
  }

  onDeath(listener: (report: DeathReport) => void): () => void {
    if (typeof listener !== 'function') throw new DmaArgumentError('listener', listener, 'a function');
    const entry = { listener };
    this.#deathListeners.add(entry);
    return () => {
      this.#deathListeners.delete(entry);
    };
  }

  workerEnded(thread: number): DeathReport[] {
    const reports = this.#core.bury(thread);
    const { device, hooks, name } = this.#options;
    for (const report of reports) {
      if (report.out.length > 0) {
        const blocks = listBlocks(report.out, (index) => hex(this.pages.dmaOf(index)));
        device.report(
          'error',
          `${name} worker died`,
          `${name}: worker ${String(report.worker)} (thread ${String(report.thread)}) died with ` +
            `${String(report.out.length)} blocks out: ${blocks}${hooks?.holders(report.out) ?? ''}; reclaim() takes them back once the device is quiet`,
        );
      }
    }
    if (this.#core.isDestroyed()) this.#releaseIfUnused();
    // Last, and each, whatever it throws: it is the user's code.
    for (const report of reports) {
      for (const { listener } of [...this.#deathListeners]) {
        try {
          listener(report);
        } catch (error) {
          device.report('error', `${name} listener`, `${name}: a listener of onDeath threw ${String(error)}`);
        }
      }
    }
    return reports;
  }

  reclaim(): number {
    const count = this.#core.reclaim();
    if (this.#core.isDestroyed()) this.#releaseIfUnused();
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
    if (this.#options.release === null) {
      this.#leave();
      return;
    }
    if (!this.#core.destroy()) return;
    const out = this.#core.indicesOut();
    if (out.length > 0) {
      const { device, name } = this.#options;
      device.report('error', `${name} busy`, `${name} busy: ${this.holders(out)}`);
    }
    this.#stop();
    this.#pump();
    this.#releaseIfUnused();
  }

  /** Every call takes the slow path from now on, which knows that the pool was destroyed. */
  #stop(): void {
    this.#options.list.hold();
    this.#core.giveBack(MAX_BLOCKS);
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
    if (this.#core.indicesOut().length > 0 || this.#workers.in(ATTACHED).some((worker) => worker !== this.worker))
      return;
    this.#released = true;
    this.#forgetWorkers();
    this.#forgetReclaim();
    release();
  }

  /** A worker that attached leaves; what it has out is kept as if it had died. */
  #leave(): void {
    if (this.#left) return;
    this.#waiters.failAll(this.#destroyedError());
    this.#left = true;
    this.#forgetWorkers();
    this.#forgetReclaim();
    this.#options.list.hold();
    const out = this.#core.detach();
    if (out.length > 0) {
      const { device, name } = this.#options;
      device.report('error', `${name} busy`, `${name} busy: ${this.holders(out)}`);
    }
  }

  #destroyedError(): DmaDestroyedError {
    return new DmaDestroyedError(`${this.#label} was destroyed; it has no more blocks to give`);
  }

  #checkNotLeft(): void {
    if (this.#left || this.#released) throw this.#destroyedError();
  }

  checkNotGone(): void {
    if (this.gone) throw this.#destroyedError();
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
    const byWorker = new Map<number, number[]>();
    for (const index of out) {
      const worker = holderOf(this.#options.control.words[index]!);
      const blocks = byWorker.get(worker);
      if (blocks === undefined) byWorker.set(worker, [index]);
      else blocks.push(index);
    }
    const { hooks } = this.#options;
    const lines = [...byWorker].map(([worker, blocks]) => {
      const sites = hooks?.holders(blocks) ?? '';
      const named =
        sites !== '' ? sites.replaceAll('\n  ', '\n    ') : listBlocks(blocks, (index) => hex(this.pages.dmaOf(index)));
      return `\n  ${String(blocks.length)} with worker ${String(worker)} (thread ${String(this.#workers.threadOf(worker))}): ${named}`;
    });
    return `${String(out.length)} ${out.length === 1 ? 'block is' : 'blocks are'} still out:${lines.join('')}`;
  }

  reserve(count: number): void {
    checkInteger('count', count, 0, MAX_BLOCKS);
    const refusal = this.prepare(count, 'kernel');
    if (refusal < 0) throw this.refused(refusal, count);
  }

  /** A shared pool keeps its pages: any worker may be about to use one. */
  trim(): number {
    return 0;
  }

  dmaOf(index: number): number {
    const dma = this.pages.dmaOf(index);
    if (dma < 0) throw this.pages.noSuchBlock(index);
    return dma;
  }

  bytesOf(index: number): Uint8Array<ArrayBuffer | SharedArrayBuffer> {
    return this.pages.bytesOf(index);
  }

  fill(index: number, value: number): void {
    this.pages.fill(index, value);
  }

  account(): PoolCounts {
    const pages = this.#released ? 0 : this.#header[H_PAGES]!;
    return {
      active: this.#core.indicesOut().length,
      blocks: pages * this.#options.geometry.blocksPerPage,
      pages,
    };
  }

  statistics(): PoolStatistics {
    const { active, blocks, pages } = this.account();
    let allocations = this.#workers.past + this.#core.allocations;
    for (let worker = 1; worker <= MAX_WORKERS; worker++) {
      if (worker !== this.worker && this.#workers.stateOf(worker) !== NO_WORKER) {
        allocations += this.#workers.allocationsOf(worker);
      }
    }
    // Others tell what they counted now and then; as many as are out there were for sure.
    allocations = Math.max(allocations, active);
    return {
      active,
      blocks,
      pages,
      highWater: Math.max(active, this.#header[H_HIGH_WATER]!),
      allocations,
      frees: allocations - active,
      failures: this.#header[H_FAILURES]!,
      corrupted: this.#header[H_CORRUPTED]!,
      quarantined: this.#header[H_QUARANTINED]!,
      waits: this.#header[H_WAITS]!,
      waiting: this.#queue.waiting,
    };
  }
}
