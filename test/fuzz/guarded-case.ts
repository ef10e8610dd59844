/** Common part of the histories of drivers on guarded devices: the function, its faults and events, and the checks at the end. */
import assert from 'node:assert/strict';
import { DmaError, DmaReleaseError, HeapMemory } from 'dmapool';
import { PciError, PciFunction } from 'dmapool/pci';
import { ModelHost } from '../drivers/model-host.ts';
import { type AccessKind, type Decide, type Fault, FaultPlan, randomFault } from '../guard/fault-plan.ts';
import { GuardedBackend, type GuardedFake } from '../guard/guarded-backend.ts';
import { GuardedMemory } from '../guard/guarded-memory.ts';
import { RelentlessDma } from '../guard/relentless-dma.ts';
import { RecordingLog } from '../support/log.ts';
import { Random } from '../support/random.ts';
import { countOperations } from './operations.ts';

/** Ranges of access numbers in which events and faults occur. */
const SPANS: readonly number[] = [60, 200, 800, 3000];
/** Shares of accesses with a fault, in histories with many faults. */
const SHARES: readonly number[] = [0.001, 0.01, 0.1, 0.5];

/** Maximum total time of slow accesses in a history, in milliseconds. */
const MOST_SLOW_TIME = 60_000;

/** Calls in the report of a failure. */
const SHOWN = 40;

/** Abort reason of the history's signals. */
export class Aborted extends Error {}

export interface CaseOptions {
  /** The device conforms to its specification, there are no faults, and calls are not aborted. */
  readonly peaceful: boolean;
  /** No faults and events, but the device may write invalid descriptors. Default: `peaceful`. */
  readonly undisturbed?: boolean;
}

/** A device with a driver, their faults and events. */
export class GuardedCase {
  readonly random: Random;
  readonly host: ModelHost;
  readonly log = new RecordingLog();
  readonly peaceful: boolean;
  readonly #undisturbed: boolean;
  readonly #memory: GuardedMemory;
  readonly #dma: RelentlessDma;
  readonly #plan: FaultPlan;
  #backend!: GuardedBackend;
  #pci: PciFunction | null = null;
  /** Number of the first access that may have a fault; null until it is known. */
  #since: number | null;
  readonly #isLate: boolean;
  /** Total time of slow accesses in milliseconds. */
  #slowTime = 0;
  /** A reset of the function hangs. */
  #isResetForEver = false;
  readonly #calls: Promise<unknown>[] = [];
  readonly #resets: Promise<unknown>[] = [];
  /** Calls and their results, for the report of a failure. */
  readonly #history: string[] = [];
  readonly #controllers: AbortController[] = [];

  constructor(seed: number, { peaceful, undisturbed = peaceful }: CaseOptions) {
    this.random = new Random(seed);
    this.peaceful = peaceful;
    this.#undisturbed = undisturbed;
    const heap = new HeapMemory({ limit: 8 * 1024 * 1024, step: 64 * 1024 });
    this.#memory = new GuardedMemory(heap);
    this.#dma = new RelentlessDma(this.#memory);
    const own = new Random(seed ^ 0x6a09_e667);
    this.host = new ModelHost(heap, this.#dma, own);
    const decide = undisturbed ? () => null : faultsOf(own);
    // Opening takes most accesses. Faults occur from the beginning, or only after the driver is open.
    this.#isLate = own.chance(0.6);
    this.#since = this.#isLate ? null : 0;
    this.#plan = new FaultPlan((access, number) => {
      if (this.#since === null) return null;
      const fault = decide(access, number - this.#since);
      if (access === 'reset' && fault?.kind === 'hang') this.#isResetForEver = true;
      if (fault?.kind !== 'slow') return fault;
      // Accesses wait for earlier ones. All must be complete before the checks at the end.
      this.#slowTime += fault.time ?? 0;
      return this.#slowTime > MOST_SLOW_TIME ? { kind: 'slow', time: 1 } : fault;
    });
  }

  /** The function. */
  get pci(): PciFunction {
    return this.#pci!;
  }

  get backend(): GuardedBackend {
    return this.#backend;
  }

  /** Runs the history. Adds the log and the most recent accesses and calls to its error. */
  async run(history: () => Promise<void>): Promise<void> {
    try {
      await history();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const lines = [message, ...this.log.lines, 'last accesses:', ...this.#plan.trace, ...this.#history.slice(-SHOWN)];
      throw new Error(lines.join('\n'), { cause: error });
    }
  }

  /** Opens the function of a device. Null if that fails, which ends the history. */
  async open(fake: GuardedFake): Promise<PciFunction | null> {
    const { random } = this;
    const [dma, memory, plan] = [this.#dma, this.#memory, this.#plan];
    const isolates = !this.#undisturbed && random.chance(0.2);
    const settles = !this.#undisturbed && random.chance(0.2);
    this.#backend = new GuardedBackend({ fake, memory, dma, plan, isolates, settles });
    const pci = await this.call('open the function', () => PciFunction.open(this.#backend, { log: this.log }));
    if (pci === null) return null;
    this.#pci = pci;
    this.host.target = pci.device;
    return pci;
  }

  /** Schedules an action just before a random later access. */
  at(action: () => void): void {
    const { random } = this;
    this.#plan.before(this.#plan.accesses + random.below(random.pick(SPANS)), action);
  }

  /**
   * Schedules random events. Called after the function was opened and after its driver was opened; only one call has effect.
   *
   * @param close Closes the driver.
   */
  disturb(when: 'function' | 'driver', close: () => void): void {
    if (this.#undisturbed || (when === 'driver') !== this.#isLate) return;
    if (this.#isLate) this.#since = this.#plan.accesses;
    const { random } = this;
    const pci = this.pci;
    for (let n = random.chance(0.4) ? 0 : 1 + random.below(3); n > 0; n--) {
      switch (random.below(8)) {
        case 0:
          this.at(() => {
            this.#backend.pull(random.chance(0.5));
          });
          break;
        case 1:
          this.at(() => {
            if (!this.#backend.removed.aborted) this.#backend.request();
          });
          break;
        case 2:
        case 3:
          this.at(close);
          break;
        case 4:
          this.at(() => {
            this.start('close the function', () => pci.close());
          });
          break;
        case 5:
          this.at(() => {
            const reset = this.call('reset the function', () => pci.reset());
            this.#resets.push(reset);
            reset.catch(() => undefined);
          });
          break;
        case 6:
          this.at(() => {
            this.start('detach the device', () => {
              pci.device.detach();
            });
          });
          break;
        default:
          this.at(() => {
            for (const controller of this.#controllers) controller.abort(new Aborted('by the history'));
          });
      }
    }
  }

  /** Returns a signal that may be aborted at any time. */
  signal(): AbortSignal {
    const controller = new AbortController();
    this.#controllers.push(controller);
    return controller.signal;
  }

  /** Runs a call, which must end with a value, a `DmaError` or an abort. Null for an error. */
  async call<T>(what: string, action: () => T | Promise<T>): Promise<T | null> {
    countOperations(1);
    this.#note(what);
    try {
      const result = await action();
      this.#note(`${what}: done`);
      return result;
    } catch (error) {
      this.#note(`${what}: ${String(error)}`);
      if (error instanceof assert.AssertionError) throw error;
      if (error instanceof Aborted) return null;
      if (!(error instanceof DmaError)) {
        throw new Error(`${what} ends with ${String(error)}, not a DmaError`, { cause: error });
      }
      if (this.peaceful) throw new Error(`${what} fails: ${error.message}`, { cause: error });
      return null;
    }
  }

  #note(line: string): void {
    this.#history.push(`${String(this.#plan.accesses)} ${line}`);
  }

  /** Starts a {@link GuardedCase.call} without waiting for its end. */
  start(what: string, action: () => unknown): void {
    const call = this.call(what, action);
    this.#calls.push(call);
    // ended() checks it.
    call.catch(() => undefined);
  }

  /** Waits for all started calls. */
  async ended(): Promise<void> {
    for (const call of this.#calls) await call;
    if (!this.#isResetForEver) await Promise.all(this.#resets);
  }

  /**
   * Closes driver and function with faults, then again without. After a proof that the device stopped no memory may stay
   * allocated; without one it must be counted and reported.
   *
   * @param close Closes the driver, if it was opened.
   * @param relent Makes the device conform to its specification.
   */
  async end(close: (() => Promise<void>) | null, relent: () => void): Promise<void> {
    const pci = this.pci;
    const { device } = pci;
    if (close !== null) await this.#close('close the driver', close);
    await this.#close('close the function', () => pci.close());
    await this.ended();
    this.#plan.end();
    relent();
    // During a reset, reads of all ones are no proof of a removal, and this reset does not end.
    const isLost = this.#isResetForEver && this.#backend.isPulled;
    for (const again of [close, () => pci.close()]) {
      // Slow accesses may still be in flight.
      for (let tries = 4; tries > 0; tries--) {
        const error: unknown = await again?.().then(
          () => null,
          (reason: unknown) => reason,
        );
        // An error may be one of the first close, reported again.
        assert.ok((error ?? null) === null || error instanceof DmaError, String(error));
        if (!this.#kept(error)) break;
        if (tries === 1) assert.ok(isLost, 'memory is kept though the device conforms');
        await new Promise((resolve) => setTimeout(resolve, 30_000));
      }
    }
    if (isLost && device.bytesAllocated > 0) assert.match(this.log.text, /kept|stay reserved/);
    else {
      assert.equal(device.bytesAllocated, 0, 'bytes that the device still has');
      assert.equal(this.#memory.bytesAllocated, 0, 'bytes that the allocator still has');
    }
    assert.deepEqual(this.#backend.usageErrors, [], 'usage errors of the backend');
    this.#dma.check();
    if (this.peaceful) assert.equal(this.log.text, '');
  }

  /** Closes. If the error reports memory that stays reserved, the log must report it too. */
  async #close(what: string, close: () => Promise<void>): Promise<void> {
    let kept = false;
    await this.call(what, async () => {
      try {
        await close();
      } catch (error) {
        kept = this.#kept(error);
        throw error;
      }
    });
    if (kept && this.pci.device.bytesAllocated > 0) assert.match(this.log.text, /kept|stay reserved/);
  }

  #kept(error: unknown): boolean {
    if (error instanceof DmaReleaseError) return error.errors.some((one) => this.#kept(one));
    return error instanceof PciError && error.code === 'ERR_DMAPOOL_PCI_DMA_ACTIVE';
  }
}

/** Returns a plan with no, a few, or many faults, some in runs. */
function faultsOf(random: Random): Decide {
  const kind = random.below(10);
  if (kind < 4) return () => null;
  if (kind < 8) {
    const faults = new Set(Array.from({ length: 1 + random.below(4) }, () => random.below(random.pick(SPANS))));
    return (access, number) => (faults.has(number) ? faultOf(random, access) : null);
  }
  const share = random.pick(SHARES);
  let run = 0;
  return (access) => {
    if (run > 0) run--;
    else if (!random.chance(share)) return null;
    else if (random.chance(0.1)) run = random.below(20);
    return faultOf(random, access);
  };
}

/** Returns a random fault. A read does not hang: it would stall the CPU. */
function faultOf(random: Random, access: AccessKind): Fault {
  const fault = randomFault(random, access);
  return fault.kind === 'hang' && access === 'read' ? { kind: 'slow', time: 5100 } : fault;
}
