/**
 * A random history of a guarded `PciFunction`: memory, pools, bus mastering, proofs, resets, interrupts and closes, by several
 * concurrent users that follow its rules, with faults at any access, removal and release requests. Invariants:
 *
 * - no memory is freed, by `close` or by a user with a valid proof, while the device may access it;
 * - every promise is settled, and every rejection is a `DmaError`;
 * - a reset restores the configuration that it cleared;
 * - a successful close leaves no memory allocated but that of users; a failed one reports the memory that stays reserved, and
 *   a later close succeeds.
 */
import assert from 'node:assert/strict';
import { type CoherentMemory, type DmaBlock, DmaError, DmaPool } from 'dmapool';
import { type DmaStopped, type Interrupts, PciError, PciFunction, type StopDmaOptions } from 'dmapool/pci';
import { FaultPlan, randomFault } from '../guard/fault-plan.ts';
import { GuardedBackend } from '../guard/guarded-backend.ts';
import { GuardedMemory } from '../guard/guarded-memory.ts';
import { RelentlessDma } from '../guard/relentless-dma.ts';
import { inVirtualTime, type VirtualClock } from '../guard/virtual-clock.ts';
import { CONTROL, GuardedFunction, SLOT_COUNT, SLOTS } from '../pci/guarded-function.ts';
import { RecordingLog } from '../support/log.ts';
import { Random } from '../support/random.ts';
import { HistoryOperations, waitFor } from './history-operations.ts';
import { countOperations } from './operations.ts';

export type Feature = 'faults' | 'events' | 'trouble';
export const FEATURES: readonly Feature[] = ['faults', 'events', 'trouble'];

export interface HistoryOptions {
  readonly seed: number;
  readonly operations?: number;
  readonly features?: ReadonlySet<Feature>;
}

const MOST_OPERATIONS = 60;
const COMMAND = 4;

/** Memory of a user, and the slot of the device for its address; -1 for none. */
interface Held {
  readonly dma: number;
  readonly size: number;
  readonly free: () => void;
  slot: number;
  /** The device may have the address. */
  isGiven: boolean;
}

export class PciHistory {
  readonly #seed: number;
  readonly #most: number;
  readonly #features: ReadonlySet<Feature>;
  readonly #random: Random;
  readonly #memory = new GuardedMemory();
  readonly #dma: RelentlessDma;
  readonly #device: GuardedFunction;
  readonly #plan: FaultPlan;
  #backend: GuardedBackend;
  readonly #settings: { readonly isolates: boolean; readonly settles: boolean; readonly resets: boolean };
  readonly #log = new RecordingLog();
  readonly #operations = new HistoryOperations();
  #fn!: PciFunction;
  #pools: DmaPool[] = [];
  readonly #held = new Set<Held>();
  readonly #freeSlots = new Set<number>();
  #interrupts: Interrupts | null = null;
  /** Configuration that a reset must restore. */
  readonly #state: readonly number[];
  /** The device may have addresses from before it was stopped: it must be reset before bus mastering is enabled. */
  #isStale = false;
  /** Running calls of `stopDma`. Meanwhile users give the device no addresses. */
  #stopping = 0;
  /** Proofs that were used. */
  #proofs = 0;

  constructor({ seed, operations = MOST_OPERATIONS, features = new Set(FEATURES) }: HistoryOptions) {
    this.#seed = seed;
    this.#most = operations;
    this.#features = features;
    this.#random = new Random(seed);
    this.#dma = new RelentlessDma(this.#memory);
    const random = this.#randomOf(1);
    this.#device = new GuardedFunction(this.#dma, random.pick(['none', 'express', 'advanced']));
    this.#state = this.#device.state;
    this.#settings = { isolates: random.chance(0.3), settles: random.chance(0.3), resets: random.chance(0.5) };
    this.#plan = this.#makePlan();
    this.#backend = this.#makeBackend();
  }

  #randomOf(subject: number): Random {
    return new Random(this.#seed + subject * 0x9e37_79b1);
  }

  #has(feature: Feature): boolean {
    return this.#features.has(feature);
  }

  get report(): string {
    return [...this.#operations.lines, ...this.#log.lines, ...this.#plan.trace].join('\n    ');
  }

  #makePlan(): FaultPlan {
    const random = this.#randomOf(2);
    if (!this.#has('faults') || random.chance(0.3)) return new FaultPlan();
    const from = random.chance(0.1) ? 0 : random.below(120);
    const single = random.chance(0.3);
    const share = random.pick([0.01, 0.05, 0.2, 0.5]);
    return new FaultPlan((access, number) => {
      if (single ? number !== from : number < from || !random.chance(share)) return null;
      return randomFault(random, access);
    });
  }

  #makeBackend(): GuardedBackend {
    const { resets, ...settings } = this.#settings;
    const reset = (): void => {
      this.#device.resetByBackend();
    };
    const fake = {
      backend: this.#device,
      isBusMaster: () => this.#device.isBusMaster,
      ...(resets ? { reset } : {}),
    };
    return new GuardedBackend({ fake, memory: this.#memory, dma: this.#dma, plan: this.#plan, ...settings });
  }

  async run(): Promise<void> {
    await inVirtualTime((clock) => this.#run(clock), { time: 50_000_000, steps: 500_000 });
  }

  async #run(clock: VirtualClock): Promise<void> {
    this.#setUp();
    try {
      this.#fn = await PciFunction.open(this.#backend, { log: this.#log });
    } catch (error) {
      assert.ok(error instanceof DmaError, `open rejects with ${String(error)}`);
      return;
    }
    this.#dma.target = this.#fn.device;
    for (let slot = 0; slot < SLOT_COUNT; slot++) this.#freeSlots.add(slot);
    clock.onTurn = () => {
      this.#dma.strike();
      this.#checkProof();
    };
    this.#schedule();
    const users = this.#random.pick([1, 2, 4]);
    try {
      await waitFor(Promise.all(Array.from({ length: users }, () => this.#use())));
      await this.#end();
    } finally {
      clock.onTurn = () => undefined;
    }
    countOperations(this.#operations.count);
    this.#dma.check();
    assert.deepEqual(this.#backend.usageErrors, [], 'usage errors of the backend');
  }

  /** Checks that the device can do no DMA while the function has a proof: a user may then free memory at any time. */
  #checkProof(): void {
    const isProven = this.#fn.dmaStopped !== null;
    assert.ok(!isProven || !this.#dma.isLive || this.#dma.grants === 0, 'a proof holds, but the device may do DMA');
  }

  #setUp(): void {
    const random = this.#randomOf(3);
    const device = this.#device;
    // Bus mastering that firmware left on.
    if (random.chance(0.2)) device.config.setUint16(COMMAND, 4, true);
    if (!this.#has('trouble')) return;
    device.readyTime = random.pick([0, 0, 50, 300, 1050, 5000]);
    device.resetTime = random.pick([0, 0, 30, 6000, Infinity]);
    device.sticks = random.chance(0.1);
    if (random.chance(0.2)) device.pend(random.below(2000));
  }

  #schedule(): void {
    const random = this.#randomOf(4);
    if (!this.#has('events')) return;
    const events: readonly (() => void)[] = [
      () => {
        this.#backend.pull(random.chance(0.5));
      },
      () => {
        this.#backend.request();
      },
      () => void this.#operations.run('close', () => this.#fn.close()),
      () => void this.#stop(random),
      () => void this.#operations.run('reset', () => this.#reset()),
      () => void this.#enable(),
      () => {
        this.#interrupt(random.below(2));
      },
    ];
    const count = random.pick([0, 1, 1, 2, 4]);
    for (let i = 0; i < count; i++) {
      const event = random.pick(events);
      this.#plan.before(8 + random.below(150), event);
    }
  }

  #interrupt(vector: number): void {
    this.#device.interrupts!.fire(vector);
  }

  // ---- users

  async #use(): Promise<void> {
    const random = this.#random;
    while (this.#operations.count < this.#most && !this.#fn.closed) {
      await this.#operation(random);
      if (random.chance(0.1)) await new Promise((resolve) => setTimeout(resolve, random.below(50)));
    }
  }

  async #operation(random: Random): Promise<void> {
    const fn = this.#fn;
    switch (random.below(14)) {
      case 0:
      case 1:
        await this.#operations.run('take memory', () => this.#take(random));
        break;
      case 2:
      case 3:
        await this.#operations.run('give address', () => this.#give(random));
        break;
      case 4:
        await this.#operations.run('take address back', () => this.#takeBack(random));
        break;
      case 5:
      case 6:
        await this.#enable();
        break;
      case 7:
        await this.#stop(random);
        break;
      case 8:
        await this.#operations.run('reset', () => this.#reset());
        break;
      case 9:
        await this.#operations.run('disable', () => fn.disableBusMaster());
        break;
      case 10:
        await this.#operations.run('interrupts', () => this.#useInterrupts(random));
        break;
      case 11:
        await this.#operations.run('registers', async () => {
          fn.bar(0).write32(0x400, random.next());
          await fn.bar(0).read32(0x400);
        });
        break;
      case 12:
        await this.#operations.run('pool', () => this.#usePool(random));
        break;
      default:
        if (random.chance(0.1)) await this.#operations.run('close', () => fn.close());
    }
  }

  #take(random: Random): Promise<void> {
    const { device } = this.#fn;
    const pool = this.#pools.length > 0 && random.chance(0.6) ? random.pick(this.#pools) : null;
    const hold = ({ dma, size }: DmaBlock | CoherentMemory, free: () => void): void => {
      this.#held.add({ dma, size, slot: -1, isGiven: false, free });
    };
    if (pool !== null) {
      const block = pool.alloc();
      const { index } = block;
      hold(block, () => {
        pool.freeIndex(index);
      });
    } else {
      const memory = device.allocCoherent(random.pick([64, 4096, 20_000]));
      if (memory === null) return Promise.resolve();
      hold(memory, () => {
        device.freeCoherent(memory);
      });
    }
    return Promise.resolve();
  }

  #usePool(random: Random): Promise<void> {
    if (this.#pools.length < 3) {
      this.#pools.push(DmaPool.createManaged(`p${String(this.#operations.count)}`, this.#fn.device, { size: 256 }));
    } else if (random.chance(0.3)) {
      const pool = random.pick(this.#pools);
      this.#pools = this.#pools.filter((other) => other !== pool);
      pool.destroy();
    }
    return Promise.resolve();
  }

  /** Gives the device an address. The address register is written before the length register, which starts DMA. */
  async #give(random: Random): Promise<void> {
    const held = [...this.#held].find(({ slot }) => slot < 0);
    const [slot] = this.#freeSlots;
    if (held === undefined || slot === undefined || this.#stopping > 0) return;
    this.#freeSlots.delete(slot);
    held.slot = slot;
    const bar = this.#fn.bar(0);
    const at = SLOTS + slot * 16;
    bar.write64(at, held.dma);
    if ((await bar.read64(at)) !== BigInt(held.dma)) return;
    // Memory that was freed meanwhile, with a proof, must not be given.
    if (!this.#held.has(held) || this.#stopping > 0) return;
    held.isGiven = true;
    bar.write32(at + 8, random.chance(0.5) ? held.size : 16);
  }

  /** Takes an address from the device, and frees its memory after the device confirmed it. */
  async #takeBack(random: Random): Promise<void> {
    const given = [...this.#held].filter(({ isGiven }) => isGiven);
    if (given.length === 0) return;
    const held = random.pick(given);
    const { slot } = held;
    const bar = this.#fn.bar(0);
    const at = SLOTS + slot * 16 + 12;
    bar.write32(at, 1);
    if ((await bar.read32(at)) !== 1 || !this.#held.has(held) || held.slot !== slot) return;
    this.#freeSlots.add(slot);
    this.#release(held);
  }

  #release(held: Held): void {
    this.#held.delete(held);
    held.free();
  }

  /** Enables bus mastering, after a reset if the device may have old addresses. */
  async #enable(): Promise<void> {
    await this.#operations.run('enable', async () => {
      if (this.#isStale) await this.#resetDevice();
      if (!this.#isStale) await this.#fn.enableBusMaster();
    });
  }

  /** Resets the device through its control register. */
  async #resetDevice(): Promise<void> {
    const bar = this.#fn.bar(0);
    const proofs = this.#proofs;
    bar.write32(CONTROL, 1);
    const end = performance.now() + 3000;
    while ((await bar.read32(CONTROL)) !== 0) {
      if (performance.now() > end) throw new PciError('ERR_DMAPOOL_PCI_PROTOCOL', 'test', 'the device does not reset');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    // The device may still have the address of memory that was freed since the reset began.
    if (proofs === this.#proofs) this.#isStale = false;
  }

  async #reset(): Promise<void> {
    if (!(await this.#fn.reset())) return;
    if (this.#plan.faults > 0 || this.#backend.removed.aborted || this.#backend.isPulled) return;
    assert.deepEqual(this.#device.state, this.#state, 'configuration after a reset');
  }

  async #stop(random: Random): Promise<void> {
    const options: StopDmaOptions = {
      timeout: random.pick([10, 1000, 5000]),
      ...(random.chance(0.6) ? { stop: () => this.#ownStop(random) } : {}),
    };
    this.#stopping++;
    await this.#operations.run('stopDma', async () => {
      this.#useProof(await this.#fn.stopDma(options));
    });
    this.#stopping--;
  }

  #ownStop(random: Random): Promise<void> {
    if (random.chance(0.1)) return new Promise(() => undefined);
    if (random.chance(0.1)) return Promise.reject(new PciError('ERR_DMAPOOL_PCI_PROTOCOL', 'test', 'it does not stop'));
    return this.#resetDevice();
  }

  /** Frees all memory of the device at once if the proof holds. */
  #useProof(proof: DmaStopped): void {
    if (!proof.holds) return;
    this.#checkProof();
    this.#isStale = true;
    this.#proofs++;
    for (const held of [...this.#held]) {
      if (held.slot < 0) continue;
      // The slot stays in use until the device is reset.
      this.#release(held);
    }
  }

  async #useInterrupts(random: Random): Promise<void> {
    if (this.#interrupts === null) {
      this.#interrupts = await this.#fn.interrupts({
        vectors: 2,
        kinds: random.pick([['msix'], ['poll'], ['msix', 'poll']]),
      });
      return;
    }
    if (random.chance(0.3)) {
      const interrupts = this.#interrupts;
      this.#interrupts = null;
      await interrupts.close();
      return;
    }
    if (random.chance(0.5)) this.#interrupt(random.below(2));
    await this.#interrupts.wait({ timeout: random.pick([0, 5, 2000]) });
  }

  // ---- the end

  async #end(): Promise<void> {
    const fn = this.#fn;
    const random = this.#random;
    if (random.chance(0.3)) void this.#operations.run('close', () => fn.close());
    const relent = (): void => {
      this.#device.sticks = false;
    };
    await this.#operations.end({ pci: fn, plan: this.#plan, memory: this.#memory, log: this.#log, relent });
    const proof = await fn.stopDma();
    assert.ok(proof.holds, 'a closed function is stopped');
    for (const held of [...this.#held]) {
      try {
        this.#release(held);
      } catch (error) {
        // Closing the function destroyed the pool.
        assert.ok(error instanceof DmaError, String(error));
      }
    }
    assert.equal(this.#memory.bytesAllocated, 0, 'bytes that are allocated after the function was closed');
    assert.equal(fn.device.bytesAllocated, 0);
  }
}
