/**
 * A fake function under guard: every access goes through a fault plan, the device accesses memory at each of them, and what
 * the host knows of its DMA is followed as a host has to learn it.
 *
 *     PciFunction --> GuardedBackend --> the fake's own backend
 *                        | FaultPlan: slow, rejected, all ones, lost
 *                        | RelentlessDma: proven, resumed, cut off
 */
import type { CoherentAllocator } from 'dmapool';
import type { BarInfo, InterruptBackend, InterruptKind, PciBackend, RawConfigSpace } from 'dmapool/pci';
import { PciError, PciGoneError } from 'dmapool/pci';
import type { AccessKind, Fault, FaultPlan } from './fault-plan.ts';
import type { RelentlessDma } from './relentless-dma.ts';

const VENDOR_ID = 0;
const COMMAND = 4;
const BUS_MASTER = 4;

/** What the guard needs of a fake. */
export interface GuardedFake {
  readonly backend: PciBackend;
  /** Bus mastering as the device has it at this moment. */
  isBusMaster(): boolean;
  /** The device does a function reset: bus mastering goes off, and it forgets all that it was told. Absent: it has none. */
  reset?(): void;
}

export interface GuardedOptions {
  readonly fake: GuardedFake;
  readonly memory: CoherentAllocator;
  readonly dma: RelentlessDma;
  readonly plan: FaultPlan;
  /** It can take all memory out of the function's reach. */
  readonly isolates?: boolean;
  /** It makes sure that nothing is under way, which reads of configuration space do not. */
  readonly settles?: boolean;
}

export class GuardedBackend implements PciBackend {
  readonly address: string;
  readonly configSize: number;
  readonly bars: readonly BarInfo[];
  readonly memory: CoherentAllocator;
  readonly removed: AbortSignal;
  readonly rawConfig: RawConfigSpace;
  readonly reset?: () => Promise<boolean>;
  readonly settle?: () => Promise<void>;
  readonly isolate?: () => Promise<void>;
  readonly #controller = new AbortController();
  readonly #inner: PciBackend;
  /** Configuration space of the fake as drivers use it. */
  readonly #config: RawConfigSpace;
  readonly #fake: GuardedFake;
  readonly #dma: RelentlessDma;
  readonly #plan: FaultPlan;
  #isPulled = false;
  #isClosed = false;
  /** When the access before the next one has arrived, and how many are under way. */
  #last: Promise<void> = Promise.resolve();
  #underWay = 0;
  /** Posted writes that did not arrive yet. */
  readonly #posted: (() => void)[] = [];
  /** What went wrong with a posted write, for the next awaited call. */
  #postedError: Error | null = null;
  /** What a backend must not see: calls after close, a close while there is DMA. */
  readonly misuse: string[] = [];

  constructor({ fake, memory, dma, plan, isolates = false, settles = false }: GuardedOptions) {
    const { backend } = fake;
    this.#inner = backend;
    this.#fake = fake;
    this.#dma = dma;
    this.#plan = plan;
    this.address = backend.address;
    this.configSize = backend.configSize;
    this.bars = backend.bars;
    this.memory = memory;
    this.removed = this.#controller.signal;
    this.#config = {
      read: (offset, width) => backend.readConfig(offset, width),
      write: (offset, width, value) => backend.writeConfig(offset, width, value),
    };
    const inner = backend.rawConfig ?? this.#config;
    this.rawConfig = {
      read: (offset, width) => this.#readConfig('raw-read', offset, width, inner),
      write: (offset, width, value) => this.#writeConfig('raw-write', offset, width, value, inner),
    };
    if (fake.reset !== undefined) this.reset = () => this.#reset();
    if (settles) {
      this.settle = () =>
        this.#step('settle', () => {
          if (!this.#fake.isBusMaster()) this.#dma.proven();
        });
    }
    if (isolates) {
      this.isolate = () =>
        this.#step('isolate', () => {
          this.#dma.cutOff();
        });
    }
  }

  /** It was pulled out. */
  get isPulled(): boolean {
    return this.#isPulled;
  }

  // ---- what happens to it

  /** It is pulled out: off the bus from now on. @param isKnown The system says so at once; else all ones do. */
  pull(isKnown: boolean): void {
    this.#isPulled = true;
    this.#dma.cutOff();
    if (isKnown) this.#controller.abort(new PciGoneError(this.address, 'pulled out by the test'));
  }

  /** The system requests the function, whose DMA goes on. */
  request(): void {
    const message = 'requested by the test';
    this.#controller.abort(new PciError('ERR_DMAPOOL_PCI_RELEASE_REQUESTED', this.address, message));
  }

  // ---- accesses

  /** An access that is awaited: has the plan's fault, and whatever the device does meanwhile. In order, as on a bus. */
  async #run<T>(kind: AccessKind, details: string, action: () => Promise<T>, ones?: T): Promise<T> {
    const fault = this.#begin(kind, details);
    const before = this.#last;
    let end: () => void = () => undefined;
    this.#last = new Promise((resolve) => (end = resolve));
    this.#underWay++;
    try {
      await before;
      if (fault?.kind === 'slow') await sleep(fault.time);
      this.#arrive();
      if (fault?.kind === 'reject') throw this.#failure(kind, details);
      if (fault?.kind === 'ones' && ones !== undefined) return ones;
      if (this.#isPulled && ones !== undefined) return ones;
      const result = fault?.kind === 'lost' ? undefined : await action();
      if (fault?.kind === 'reject-late') throw this.#failure(kind, details);
      return result as T;
    } finally {
      end();
      if (--this.#underWay === 0) this.#arrive();
    }
  }

  #begin(kind: AccessKind, details: string): Fault | null {
    if (this.#isClosed) this.misuse.push(`${kind} ${details} after close`);
    const fault = this.#plan.next(kind, details);
    this.#dma.strike();
    return fault;
  }

  #failure(kind: AccessKind, details: string): Error {
    return new PciError('ERR_DMAPOOL_PCI_FAULT', this.address, `${kind} ${details}: rejected by the test`);
  }

  /** As every awaited access of a driver's: not after `removed`, after all posted writes, with what went wrong with those. */
  #enter(): void {
    this.removed.throwIfAborted();
    const error = this.#postedError;
    this.#postedError = null;
    if (error !== null) throw error;
  }

  #arrive(): void {
    for (const write of this.#posted.splice(0)) write();
  }

  async #readConfig(
    kind: 'config-read' | 'raw-read',
    offset: number,
    width: 8 | 16 | 32,
    space: RawConfigSpace,
  ): Promise<number> {
    const ones = 2 ** width - 1;
    // All ones in place of the vendor of a function that is there would be a lie.
    const mayBeOnes = offset !== VENDOR_ID || kind === 'config-read' || this.#isPulled;
    const value = await this.#run(
      kind,
      `0x${offset.toString(16)}`,
      () => (this.#isPulled ? Promise.resolve(ones) : space.read(offset, width)),
      mayBeOnes ? ones : undefined,
    );
    // Here the host sees it.
    if (offset === COMMAND && value !== ones && (value & BUS_MASTER) === 0 && !this.#fake.isBusMaster()) {
      // What is under way is so no more after a read of configuration space, or only when the home made sure of that.
      if (this.settle === undefined || this.#dma.grants === 0) this.#dma.proven();
    }
    return value;
  }

  async #writeConfig(
    kind: 'config-write' | 'raw-write',
    offset: number,
    width: 8 | 16 | 32,
    value: number,
    space: RawConfigSpace,
  ): Promise<void> {
    await this.#run(kind, `0x${offset.toString(16)} = 0x${value.toString(16)}`, async () => {
      if (this.#isPulled) return;
      await space.write(offset, width, value);
      if (offset === COMMAND && this.#fake.isBusMaster()) this.#dma.resumed();
    });
  }

  async readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#enter();
    return this.#readConfig('config-read', offset, width, this.#config);
  }

  async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    this.#enter();
    return this.#writeConfig('config-write', offset, width, value, this.#config);
  }

  async read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#enter();
    return this.#run('read', `0x${offset.toString(16)}`, () => this.#inner.read(bar, offset, width), 2 ** width - 1);
  }

  async read64(bar: number, offset: number): Promise<bigint> {
    this.#enter();
    return this.#run('read', `0x${offset.toString(16)}`, () => this.#inner.read64(bar, offset), 2n ** 64n - 1n);
  }

  write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    this.#post(`0x${offset.toString(16)} = 0x${value.toString(16)}`, () => {
      this.#inner.write(bar, offset, width, value);
    });
  }

  write64(bar: number, offset: number, value: bigint): void {
    this.#post(`0x${offset.toString(16)} = 0x${value.toString(16)}`, () => {
      this.#inner.write64(bar, offset, value);
    });
  }

  /** A posted write: arrives at once, or some time later and before the next awaited access, in order. */
  #post(details: string, write: () => void): void {
    const fault = this.#begin('write', details);
    if (this.removed.aborted) return;
    const arrive = (): void => {
      // To a function that is gone it vanishes.
      if (!this.#isPulled && !this.removed.aborted) write();
    };
    if (fault?.kind === 'reject') {
      this.#postedError ??= this.#failure('write', details);
      return;
    }
    this.#posted.push(arrive);
    if (fault?.kind === 'slow') {
      setTimeout(() => {
        this.#arrive();
      }, fault.time);
    } else if (this.#posted.length === 1 && this.#underWay === 0) this.#arrive();
  }

  async flush(): Promise<void> {
    this.#enter();
    await this.#run('flush', '', () => this.#inner.flush());
  }

  async openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null> {
    this.#enter();
    const inner = await this.#run('interrupts', '', () => this.#inner.openInterrupts(kinds, vectors));
    return inner === null ? null : this.#guardInterrupts(inner);
  }

  #guardInterrupts(inner: InterruptBackend): InterruptBackend {
    return {
      kind: inner.kind,
      vectors: inner.vectors,
      level: inner.level,
      rearm: async (vector) => {
        this.#enter();
        return this.#run('rearm', String(vector), () => inner.rearm(vector));
      },
      ...(inner.disarm === undefined
        ? {}
        : {
            disarm: (vector: number) => {
              inner.disarm?.(vector);
            },
          }),
      listen: (listener) => {
        inner.listen(listener);
      },
      close: async () => {
        await this.#step('close', () => undefined);
        await inner.close();
      },
    };
  }

  /** What the home does itself, beside all accesses. */
  async #step(kind: AccessKind, action: () => void): Promise<void> {
    const fault = this.#begin(kind, '');
    if (fault?.kind === 'slow') await sleep(fault.time);
    if (fault?.kind === 'reject') throw this.#failure(kind, '');
    action();
  }

  /** The home's reset: works after `removed` too. */
  async #reset(): Promise<boolean> {
    const fault = this.#begin('reset', '');
    if (fault?.kind === 'hang') await this.#plan.ended;
    if (fault?.kind === 'slow') await sleep(fault.time);
    if (fault?.kind === 'reject' || fault?.kind === 'hang') throw this.#failure('reset', '');
    if (fault?.kind === 'lost') return false;
    if (this.#isPulled) throw this.#failure('reset', 'of a function that is gone');
    this.#fake.reset!();
    this.#dma.reset();
    this.#dma.proven();
    if (fault?.kind === 'reject-late') throw this.#failure('reset', '');
    return true;
  }

  async close(): Promise<void> {
    if (this.#isClosed) this.misuse.push('closed twice');
    if (this.#dma.isLive) this.misuse.push('closed while it may do DMA');
    const fault = this.#begin('close', '');
    this.#isClosed = true;
    if (fault?.kind === 'slow') await sleep(fault.time);
    if (fault?.kind === 'reject') throw this.#failure('close', '');
    await this.#inner.close();
  }
}

function sleep(time = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, time));
}
