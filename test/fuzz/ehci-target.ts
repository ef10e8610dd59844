/**
 * Fuzz target `ehci`: random histories of the EHCI and mass-storage drivers on models of the controller and a USB disk. The
 * models may violate the specification, hang, and access old addresses. Each call ends in bounded time with a value or a
 * `DmaError`, no memory is freed while the controller may access it, and none is leaked.
 */
import assert from 'node:assert/strict';
import { EhciController, MassStorage, type UsbBuffer, type UsbDevice } from 'dmapool/drivers/ehci';
import type { InterruptKind } from 'dmapool/pci';
import { FakeController } from '../drivers/ehci/fake-controller.ts';
import { type EhciBehaviour, EhciModel, PORTS, WELL_BEHAVED } from '../drivers/ehci/model-ehci.ts';
import { BLOCK, UsbDisk } from '../drivers/ehci/usb-disk.ts';
import { inVirtualTime } from '../guard/virtual-clock.ts';
import type { Random } from '../support/random.ts';
import { GuardedCase } from './guarded-case.ts';
import { countHostile } from './operations.ts';
import type { FuzzTarget } from './target.ts';

/** Limits of a case in virtual time, far above all time-outs. */
const LIMITS = { time: 3_600_000, steps: 400_000 };
const INTERRUPTS: readonly (InterruptKind | null)[] = ['msi', 'intx', null];
const BLOCKS = 300;

/**
 * `peaceful`: the controller conforms to the specification. `storm`: it writes invalid descriptors after it found a disk.
 * `wild`: faults of every kind.
 */
type Kind = 'peaceful' | 'storm' | 'wild';
const KINDS_OF_CASES: readonly Kind[] = ['peaceful', 'wild', 'storm', 'wild', 'wild'];

const delay = (time: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, time));

function behaviourOf(random: Random, kind: Kind): EhciBehaviour {
  // Variations that the specification allows.
  const good = {
    ...WELL_BEHAVED,
    doorbell: random.pick(['right', 'early'] as const),
    linger: random.pick([0, 0, 5, 60]),
  };
  if (kind === 'peaceful') return good;
  const interrupts = random.pick(['right', 'right', 'right', 'flood', 'never'] as const);
  if (kind === 'storm') {
    return { ...good, interrupts, hostility: random.pick([0.1, 0.5, 0.95]), patience: 10 + random.below(60) };
  }
  return {
    interrupts,
    hostility: random.pick([0, 0.02, 0.2, 0.7, 0.95]),
    patience: random.pick([0, 30, 60, 100, 300]),
    stopTime: random.pick([0, 0, 0, 0, 0, 3, 900, 4900, -1]),
    doorbell: random.pick(['right', 'right', 'right', 'early', 'early', 'early', 'never'] as const),
    linger: random.pick([0, 0, 5, 60, 1500, 2500]),
    portResetTime: random.pick([0, 0, 0, 0, 0, 2, 900, -1]),
    restlessPorts: random.pick([0, 0, 0, 0.0005, 0.02]),
    breakdowns: random.pick([0, 0, 0, 0, 0, 0.00005, 0.001]),
  };
}

class EhciHistory {
  readonly #case: GuardedCase;
  readonly #random: Random;
  readonly #model: EhciModel;
  readonly #fake: FakeController;
  readonly #isStorm: boolean;
  readonly #buffers: UsbBuffer[] = [];
  #controller: EhciController | null = null;

  constructor(seed: number) {
    const kind = KINDS_OF_CASES[seed % KINDS_OF_CASES.length]!;
    const common = new GuardedCase(seed, { peaceful: kind === 'peaceful', undisturbed: kind !== 'wild' });
    this.#case = common;
    this.#random = common.random;
    this.#isStorm = kind === 'storm';
    this.#model = new EhciModel(common.host, behaviourOf(common.random, kind));
    this.#fake = new FakeController(this.#model, common.random.pick(INTERRUPTS));
    this.#fake.sticks = kind === 'wild' && common.random.chance(0.15);
  }

  run(): Promise<void> {
    return this.#case.run(() => this.#run());
  }

  async #run(): Promise<void> {
    const [common, random, model, fake] = [this.#case, this.#random, this.#model, this.#fake];
    const reset = (): void => {
      fake.resetFunction();
    };
    const isBusMaster = (): boolean => fake.isBusMaster();
    const pci = await common.open({ backend: fake, isBusMaster, ...(random.chance(0.5) ? { reset } : {}) });
    if (pci === null) return;
    const close = (): void => {
      if (this.#controller !== null) common.start('close the driver', () => this.#close());
    };
    common.disturb('function', close);
    if (!common.peaceful) {
      for (let n = this.#isStorm ? 0 : random.below(3); n > 0; n--) {
        common.at(() => {
          model.plug(random.below(PORTS), random.chance(0.5) ? null : this.#makeDisk());
        });
      }
    }
    const disks = random.chance(0.2) && !common.peaceful && !this.#isStorm ? 0 : 1 + random.below(PORTS);
    for (let port = 0; port < disks; port++) model.plug(port, this.#makeDisk());
    const timeout = common.peaceful ? 5000 : random.pick([50, 300, 1000]);
    this.#controller = await common.call('open the driver', () => EhciController.open(pci, { timeout }));
    if (this.#controller !== null) {
      const controller = this.#controller;
      common.disturb('driver', close);
      for (let port = 1; port <= Math.max(disks, 1); port++) {
        common.start('a part of the history', () => this.#useDevice(controller, port));
      }
      if (!common.peaceful) common.start('a part of the history', () => this.#others(controller));
      await common.ended();
    }
    for (const buffer of this.#buffers)
      common.start('free a buffer', () => {
        buffer.free();
      });
    await common.end(this.#controller === null ? null : () => this.#close(), () => {
      fake.sticks = false;
      model.behaviour = WELL_BEHAVED;
    });
    countHostile(model.hostileDescriptors);
  }

  #close(): Promise<void> {
    return this.#controller!.close();
  }

  #makeDisk(): UsbDisk {
    const hostility = this.#case.peaceful || this.#isStorm ? 0 : this.#random.pick([0, 0, 0, 0.01, 0.05, 0.4]);
    return new UsbDisk(this.#case.host.random, BLOCKS, hostility);
  }

  async #useDevice(controller: EhciController, port: number): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    for (let rounds = common.peaceful ? 1 : 1 + random.below(this.#isStorm ? 6 : 3); rounds > 0; rounds--) {
      const where = common.peaceful || this.#isStorm || random.chance(0.5) ? { port } : {};
      const device = await common.call('connect', () =>
        controller.connect({ ...where, wait: this.#isStorm ? 10 : random.below(50) }),
      );
      if (device === null) continue;
      const disk = await common.call('open the disk', () => MassStorage.open(device));
      if (disk !== null) {
        const users = common.peaceful ? 1 : 1 + random.below(2);
        await Promise.all(Array.from({ length: users }, () => this.#useDisk(controller, disk, device)));
        await common.call('close the disk', () => disk.close());
      }
      if (!common.peaceful && random.chance(disk === null || this.#isStorm ? 0.7 : 0.3)) await this.#usePipes(device);
      if (random.chance(0.5)) await common.call('close the device', () => device.close());
    }
  }

  async #useDisk(controller: EhciController, disk: MassStorage, device: UsbDevice): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    for (let n = 1 + random.below(8); n > 0; n--) {
      const count = 1 + random.below(random.chance(0.4) ? 290 : 12);
      const lba = random.below(BLOCKS - count);
      const bytes = random.bytes(count * BLOCK);
      const options = common.peaceful || random.chance(0.5) ? {} : { timeout: 1 + random.below(30) };
      switch (random.below(7)) {
        case 0:
        case 1:
          await this.#readBack(disk, lba, bytes, options);
          break;
        case 2:
          await common.call('flush', () => disk.flush(options));
          break;
        case 3:
          await common.call('a string', () => device.string(random.below(4)));
          break;
        case 4:
          await this.#readInto(controller, disk, lba, count);
          break;
        case 5:
          if (!common.peaceful)
            await common.call('a command', () =>
              disk.command(random.bytes(1 + random.below(16)), random.below(2000), random.below(16)),
            );
          break;
        default:
          if (!common.peaceful) common.start('close the disk', () => disk.close());
      }
      if (random.chance(0.2)) await delay(random.below(20));
    }
  }

  async #readBack(disk: MassStorage, lba: number, bytes: Uint8Array, options: { timeout?: number }): Promise<void> {
    const common = this.#case;
    const written = await common.call('write', () => disk.write(lba, bytes, options).then(() => true));
    const back = new Uint8Array(bytes.length);
    const read = await common.call('read', () => disk.read(lba, back, options).then(() => true));
    if (common.peaceful && written === true && read === true)
      assert.ok(Buffer.from(back).equals(bytes), 'bytes that were written before');
  }

  /** Reads without a copy, into a buffer that is freed in time, too early, or by the close. */
  async #readInto(controller: EhciController, disk: MassStorage, lba: number, count: number): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    const length = Math.min(count, 256) * BLOCK;
    const buffer = await common.call('a buffer', () => controller.buffer(length));
    if (buffer === null) return;
    const reading = common.call('read without a copy', () => disk.readInto(lba, buffer, length));
    if (!common.peaceful && random.chance(0.2))
      await common.call('free early', () => {
        buffer.free();
      });
    await reading;
    if (common.peaceful || random.chance(0.7))
      await common.call('free', () => {
        buffer.free();
      });
    else this.#buffers.push(buffer);
  }

  /** Uses the endpoints directly, in ways that a disk driver does not. */
  async #usePipes(device: UsbDevice): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    const endpoints =
      (await common.call('endpoints', () => device.configuration.interfaces.flatMap((one) => one.endpoints))) ?? [];
    for (const endpoint of endpoints) {
      const pipe = await common.call('open a pipe', () => device.openBulk(endpoint));
      if (pipe === null) continue;
      for (let n = random.below(this.#isStorm ? 12 : 4); n > 0; n--) {
        const most = random.pick(this.#isStorm ? [60_000, 900_000] : [600, 60_000, 900_000]);
        const options = { timeout: 1 + random.below(300) };
        common.start('transfer', () =>
          endpoint.direction === 'in'
            ? pipe.receive(random.below(most), options)
            : pipe.send(random.bytes(random.below(most)), options),
        );
        if (random.chance(0.5)) await delay(random.below(10));
        if (random.chance(0.3)) await common.call('clear a halt', () => pipe.clearHalt());
      }
      if (random.chance(0.7)) await common.call('close a pipe', () => pipe.close());
    }
  }

  async #others(controller: EhciController): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    for (let n = random.below(4); n > 0; n--) {
      await delay(random.below(200));
      if (random.chance(0.3)) {
        const other = await common.call('open a second driver', () => EhciController.open(common.pci));
        if (other !== null) await common.call('close the second driver', () => other.close());
      } else if (random.chance(0.5)) {
        for (const device of controller.devices) common.start('close a device', () => device.close());
      } else await common.call('connect', () => controller.connect({ wait: random.below(20) }));
    }
  }
}

export const ehciTarget: FuzzTarget = {
  name: 'ehci',
  runCase: (seed) => inVirtualTime(() => new EhciHistory(seed).run(), LIMITS),
};
