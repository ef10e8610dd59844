/**
 * A QEMU machine without a guest system. This process drives its devices.
 *
 *     your driver --PciFunction--> qtest commands --> device model --\
 *                 <--interrupts---                                     > RAM: one memory file, mapped by both
 *                 --DmaPool, views of its memory---------------------/
 */
import { randomUUID } from 'node:crypto';
import { closeSync, writeSync } from 'node:fs';
import { checkBytes, checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import { createMemoryFile } from '../linux/memfd.ts';
import { PciError, PciGoneError } from '../pci/error.ts';
import { PciFunction, type PciOpenOptions } from '../pci/function.ts';
import { QemuPciBackend } from './backend.ts';
import { MachineBus, type PciLocation } from './bus.ts';
import { CHIPSETS } from './chipset.ts';
import { enumerate, type FoundFunction } from './enumerate.ts';
import { QemuError, type QemuErrorCode } from './error.ts';
import { haltingFirmware } from './firmware.ts';
import { InterruptLines } from './interrupt-lines.ts';
import { checkOptions, commandLine, type CheckedOptions, type QemuMachineOptions } from './options.ts';
import { isRecord } from './peer.ts';
import { QemuProcess } from './process.ts';
import { QmpClient } from './qmp.ts';
import type { QemuStrayWrite } from './memory-watch.ts';
import { finishRequests } from './quiesce.ts';
import { QtestClient } from './qtest.ts';
import { MachineRam } from './ram.ts';
import { Unplugger } from './unplug.ts';

/** Oldest supported version. */
const MIN_VERSION = { major: 6, minor: 0 };
/** Maximum bytes of one memory access through QEMU. */
const MAX_ACCESS = 1024 * 1024;
/** Milliseconds for a disk to complete the requests that a driver left in flight. */
const SLOW_DISK_TIME = 60_000;

/**
 * Milliseconds from the end of a connection to that of the process: QEMU closes its sockets shortly before it exits.
 */
const CLOSED_TIME = 1000;

/** A PCI function of a machine. */
export interface QemuPciFunction {
  /** Its address: `0000:00:04.0`. */
  readonly address: string;
  /** The `id` of its device; empty without one. */
  readonly id: string;
  /** PCI vendor ID of the modelled device: 16 bits, such as 0x8086 for Intel (PCI 3.0, 6.2.1). */
  readonly vendorId: number;
  /** PCI device ID: 16 bits (PCI 3.0, 6.2.1). */
  readonly deviceId: number;
  /** 24 bits: base class, subclass, programming interface (PCI 3.0, 6.2.1). */
  readonly classCode: number;
}

/** Options of {@link QemuMachine.unplug}. */
export interface UnplugOptions {
  /** Milliseconds until the device must be removed, 1 to 600,000. Default 5000. */
  readonly timeout?: number;
}

const UNPLUG_OPTIONS: OptionNames<UnplugOptions> = { timeout: true };
/** Passed by {@link QemuMachine.start}: `private` does not keep JavaScript from calling the constructor. */
const CONSTRUCTOR_KEY: unique symbol = Symbol('QemuMachine');

interface Plugged extends QemuPciFunction {
  readonly found: FoundFunction;
  /** Null while the function is closed. */
  backend: QemuPciBackend | null;
}

/**
 * A machine of QEMU's device models, for developing and testing drivers without a guest system, privileges or hardware.
 * Its CPU is halted. A driver's register accesses go to the device models, and their DMA goes to RAM that this process
 * maps too.
 *
 * Needs `qemu-system-x86_64` 6.0 or later (developed against 7.2) and the package koffi.
 *
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://' }], // a null disk; use a file, such as disk.img, to keep data
 *   devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: '1' }],
 * });
 * try {
 *   const nvme = await machine.open('nvme0');
 *   console.log((await nvme.bar(0).read32(0x08)).toString(16)); // its version: 10400 for 1.4
 *   await nvme.close();
 * } finally {
 *   await machine.close();
 * }
 * ```
 */
export class QemuMachine {
  readonly #options: CheckedOptions;
  readonly #process: QemuProcess;
  readonly #ram: MachineRam;
  readonly #qtest: QtestClient;
  readonly #qmp: QmpClient;
  readonly #bus: MachineBus;
  readonly #lines = new InterruptLines();
  readonly #unplugger: Unplugger;
  readonly #ended = new AbortController();
  #functions: Plugged[] = [];
  #closing: Promise<void> | null = null;
  #isUnreferenced = false;
  #closedTimer: NodeJS.Timeout | undefined;

  private constructor(key: symbol, options: CheckedOptions, process: QemuProcess, ram: MachineRam) {
    if (key !== CONSTRUCTOR_KEY) throw new DmaArgumentError('new QemuMachine', key, 'QemuMachine.start() instead');
    this.#options = options;
    this.#process = process;
    this.#ram = ram;
    const fail = (code: QemuErrorCode, message: string): void => {
      this.#end(new QemuError(code, `${message}; it was killed`, process.output));
      process.kill();
    };
    const onHang = (message: string): void => {
      fail('ERR_DMAPOOL_QEMU_TIMEOUT', message);
    };
    const onBroken = (message: string): void => {
      fail('ERR_DMAPOOL_QEMU_PROTOCOL', message);
    };
    const onClosed = (): void => {
      this.#closedTimer ??= setTimeout(() => {
        // During close, QEMU first flushes its disks, and then exits.
        if (this.#closing === null) onBroken('the connection closed, but the process did not exit');
      }, CLOSED_TIME);
    };
    this.#qtest = new QtestClient(process.qtest, options.commandTimeout, {
      onIrq: (line, raised) => {
        this.#lines.set(line, raised);
      },
      onHang,
      onBroken,
      onClosed,
    });
    this.#unplugger = new Unplugger((id) => {
      this.#remove(id);
    });
    this.#qmp = new QmpClient(process.qmp, options.commandTimeout, {
      onEvent: (name, data) => {
        // A device without an id has no `device` here.
        const { device } = data;
        if (name === 'DEVICE_DELETED' && typeof device === 'string' && device !== '') this.#unplugger.deleted(device);
      },
      onHang,
      onBroken,
      onClosed,
    });
    this.#bus = new MachineBus(this.#qtest);
    void process.ended.then((how) => {
      this.#end(new QemuError('ERR_DMAPOOL_QEMU_DIED', how, process.output));
    });
  }

  /**
   * Starts a machine and assigns addresses to its PCI functions. Creates no file, socket or folder. QEMU never
   * outlives this process.
   *
   * @param options Components of the machine, and timeouts. Default: a PC with 64 MiB of RAM and no devices.
   * @throws `DmaArgumentError` for invalid options. @throws {@link DmaDependencyError} without koffi.
   * @throws {@link QemuError} `ERR_DMAPOOL_QEMU_MISSING` when the program can't be started, `_VERSION` when it is too
   *   old, `_REFUSED` when it rejects its arguments, `_DIED` when it ends, `_TIMEOUT` when it is not ready in time.
   * @throws the signal's reason when it is aborted.
   */
  static async start(options: QemuMachineOptions = {}): Promise<QemuMachine> {
    const checked = checkOptions(options);
    const args = commandLine(checked);
    checked.signal?.throwIfAborted();
    const ram = new MachineRam(`dmapool-${randomUUID()}`, checked.memory, checked.highMemory, checked.log);
    try {
      const process = await startProcess(checked, args, ram);
      const machine = new QemuMachine(CONSTRUCTOR_KEY, checked, process, ram);
      try {
        await machine.#ready();
      } catch (error) {
        await machine.#abandon();
        throw error;
      }
      return machine;
    } catch (error) {
      ram.close();
      throw error;
    }
  }

  /** The machine's RAM as coherent memory. Functions opened by {@link QemuMachine.open} use it. */
  get memory(): CoherentAllocator {
    return this.#ram.source;
  }

  /** Plugged PCI functions except bridges, ascending by address. */
  get functions(): readonly QemuPciFunction[] {
    return this.#functions.map(({ address, id, vendorId, deviceId, classCode }) => ({
      address,
      id,
      vendorId,
      deviceId,
      classCode,
    }));
  }

  /** Aborted when the machine ends; the reason is a `QemuError`. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** Process ID of QEMU. */
  get pid(): number {
    return this.#process.pid;
  }

  /** The last 8 KiB of QEMU's standard output and error. */
  get output(): string {
    return this.#process.output;
  }

  /**
   * Opens a PCI function for a driver.
   *
   * @param which Its address, such as `0000:00:02.0`, or the `id` of its device.
   * @param options Log, memory and DMA mask of the function's device.
   * @throws `DmaArgumentError` for invalid options.
   * @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND` when there is no such function, `ERR_DMAPOOL_PCI_BUSY` when it is
   *   open.
   * @throws {@link QemuError} when the machine has ended.
   */
  async open(which: string, options: PciOpenOptions = {}): Promise<PciFunction> {
    const plugged = this.#find(which);
    if (plugged.backend !== null) {
      throw new PciError('ERR_DMAPOOL_PCI_BUSY', plugged.address, 'it is open; close it before opening it again');
    }
    const { found } = plugged;
    const backend = new QemuPciBackend(found, {
      bus: this.#bus,
      lines: this.#lines,
      memory: this.#ram.source,
      line: found.pin === 0 ? -1 : CHIPSETS[this.#options.machine].line(found.root.slot, found.root.pin),
      finishRequests: async () => {
        // Only disk requests continue after bus mastering is off. Without disks do not stop the machine: network devices
        // drop packets meanwhile.
        const { drives, args } = this.#options;
        if (drives.length > 0 || args.length > 0) await this.#finishRequests(SLOW_DISK_TIME);
      },
      keepsAlive: () => !this.#isUnreferenced,
      onClose: () => {
        if (plugged.backend === backend) plugged.backend = null;
      },
    });
    plugged.backend = backend;
    try {
      return await PciFunction.open(backend, options);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /**
   * Unplugs a device from the running machine. Resolves when the device is removed. Performs both sides of the
   * handshake, the user's and the operating system's (ACPI 6.3, 6.3.3: `_EJx`). Aborts the `removed` signal of its open
   * functions.
   *
   * @param which The address of its function, or the `id` of its device. The device must have an `id`.
   * @param options The timeout.
   * @throws `DmaArgumentError` for invalid options.
   * @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND` when there is no such function, `ERR_DMAPOOL_PCI_UNSUPPORTED` when
   *   it has no `id`.
   * @throws {@link QemuError} `ERR_DMAPOOL_QEMU_COMMAND` when QEMU refuses, `ERR_DMAPOOL_QEMU_TIMEOUT` when the device
   *   is not removed in time, and when the machine has ended.
   */
  async unplug(which: string, options: UnplugOptions = {}): Promise<void> {
    const { timeout = 5000 } = readOptions('options', options, UNPLUG_OPTIONS);
    checkInteger('timeout', timeout, 1, 600_000);
    const plugged = this.#find(which);
    if (plugged.id === '') {
      const message = 'a device needs an id to be unplugged: { driver: ..., id: ... }';
      throw new PciError('ERR_DMAPOOL_PCI_UNSUPPORTED', plugged.address, message);
    }
    const { backend, found, id } = plugged;
    await this.#unplugger.unplug(id, found.where, {
      onEject: (removed) => {
        backend?.beginUnplug(removed);
      },
      bus: this.#bus,
      qmp: this.#qmp,
      finishRequests: () => this.#finishRequests(timeout),
      port: CHIPSETS[this.#options.machine].hotplugPort,
      timeout,
      ended: this.ended,
    });
  }

  /**
   * Runs a command of the QEMU Machine Protocol, such as `query-block` (see the QEMU QMP Reference Manual).
   *
   * @param command Its name.
   * @param args Its arguments by name, sent as JSON.
   * @returns The `return` value of QEMU's reply.
   * @throws {@link QemuError} `ERR_DMAPOOL_QEMU_COMMAND` with QEMU's description when the command fails, and when the
   *   machine has ended.
   */
  async qmp(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (typeof command !== 'string') throw new DmaArgumentError('command', command, 'the name of a QMP command');
    if (typeof args !== 'object' || args === null || isArray(args)) {
      throw new DmaArgumentError('args', args, 'an object with the arguments by name');
    }
    return this.#qmp.execute(command, args);
  }

  /**
   * Reads a port of the machine, after all posted writes. An unassigned port reads all ones.
   *
   * @param port First port, 0 to 65536 - `width` / 8.
   * @param width Bits of the access.
   * @returns The value, unsigned.
   * @throws `DmaArgumentError` for invalid arguments. @throws {@link QemuError} when the machine has ended.
   */
  async readPort(port: number, width: 8 | 16 | 32): Promise<number> {
    checkPort(port, width);
    return this.#bus.readPort(port, width);
  }

  /**
   * Posts a write to a port of the machine. The next awaited call reports a failure. After the machine has ended the
   * write has no effect.
   *
   * @param port First port, 0 to 65536 - `width` / 8.
   * @param width Bits of the access.
   * @param value A whole number from 0 to 2^`width` - 1.
   * @throws `DmaArgumentError` for invalid arguments.
   */
  writePort(port: number, width: 8 | 16 | 32, value: number): void {
    checkPort(port, width);
    checkInteger('value', value, 0, 2 ** width - 1);
    this.#bus.writePort(port, width, value);
  }

  /**
   * Reads memory as the CPU sees it, RAM and devices, after all posted writes. For memory that a driver shares with its
   * device use the driver's own views: they need no round trip to QEMU.
   *
   * @param address Physical address of the first byte, 0 to 2^53 - 1 - `length`.
   * @param length Bytes, 1 to 1 MiB.
   * @throws `DmaArgumentError` for invalid arguments. @throws {@link QemuError} when the machine has ended.
   */
  async readMemory(address: number, length: number): Promise<Uint8Array> {
    checkInteger('length', length, 1, MAX_ACCESS);
    checkInteger('address', address, 0, Number.MAX_SAFE_INTEGER - length);
    return this.#bus.readBytes(address, length);
  }

  /**
   * Writes memory as the CPU sees it, RAM and devices, after all posted writes. Resolves when the write is complete.
   *
   * @param address Physical address of the first byte, 0 to 2^53 - 1 - `bytes.length`.
   * @param bytes The data, 1 byte to 1 MiB.
   * @throws `DmaArgumentError` for invalid arguments. @throws {@link QemuError} when the machine has ended.
   */
  async writeMemory(address: number, bytes: Uint8Array): Promise<void> {
    checkBytes('bytes', bytes);
    checkInteger('bytes.length', bytes.length, 1, MAX_ACCESS);
    checkInteger('address', address, 0, Number.MAX_SAFE_INTEGER - bytes.length);
    this.#ram.watch.exempt(address, bytes.length);
    await this.#bus.writeBytes(address, bytes);
  }

  /**
   * Finds stray writes: writes to RAM outside allocations, after all posted writes. They come from a device with a
   * wrong address or with memory that was freed too early.
   *
   * Page 0 and freed memory hold a pattern. Memory never allocated holds zeros, so a stray write of zeros goes
   * undetected there. Each allocation and `close` check too. Each difference is reported once, to the machine's log.
   * The check reads all pages that were ever touched: about 1 ms for 2 MiB.
   *
   * @returns New findings, ascending.
   * @throws {@link QemuError} when the machine has ended.
   */
  async checkMemory(): Promise<readonly QemuStrayWrite[]> {
    await this.#bus.flush();
    this.ended.throwIfAborted();
    return this.#ram.watch.check();
  }

  /**
   * Lets the program end while the machine runs, as `unref` of Node's timers and sockets does. QEMU then ends with the
   * program; its disks have the writes that were completed. A call in flight and a wait with a time limit still keep the
   * program alive; a wait for an interrupt without one does not.
   *
   * @returns The machine.
   *
   * @example
   * ```ts
   * const machine = (await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] })).unref();
   * const edu = await machine.open('edu0');
   * console.log((await edu.bar(0).read32(0)).toString(16)); // 10000ed
   * // The program ends here. Without unref() it would go on until machine.close().
   * ```
   */
  unref(): this {
    this.#isUnreferenced = true;
    this.#process.unref();
    this.#qtest.unref();
    return this;
  }

  /**
   * Ends the machine. Open functions are then removed, and views of its memory read zeros. A second call does nothing,
   * nor does a call after the machine has ended.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  /** {@link QemuMachine.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    if (!this.ended.aborted) {
      // QEMU flushes its disks before it exits.
      this.#qmp.execute('quit').catch(() => undefined);
    }
    await this.#abandon(false);
  }

  /** Ends the process and frees all resources. */
  async #abandon(kill = true): Promise<void> {
    if (kill) this.#process.kill();
    await this.#process.quit();
    this.#end(new QemuError('ERR_DMAPOOL_QEMU_CLOSED', 'the machine was closed'));
    try {
      this.#ram.watch.check();
    } finally {
      this.#ram.close();
    }
  }

  /** Marks the machine ended and notifies all clients. */
  #end(given: QemuError): void {
    if (this.ended.aborted) return;
    const error = this.#closing === null ? given : new QemuError('ERR_DMAPOOL_QEMU_CLOSED', 'the machine was closed');
    this.#ended.abort(error);
    clearTimeout(this.#closedTimer);
    this.#qtest.end(error);
    this.#qmp.end(error);
    for (const { backend } of this.#functions) backend?.remove(error, this.#process.ended);
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
  }

  readonly #onAbort = (): void => {
    void this.close();
  };

  /** Initialises the machine until its functions can be opened. */
  async #ready(): Promise<void> {
    const { signal, startTimeout, machine } = this.#options;
    const work = async (): Promise<void> => {
      const version = await this.#qmp.greeted;
      checkVersion(version);
      await this.#qmp.execute('qmp_capabilities');
      await this.#qtest.call('irq_intercept_in ioapic');
      await CHIPSETS[machine].prepare(this.#bus);
      const found = await enumerate(this.#bus);
      const ids = await this.#qmp.query('query-pci', {}, idsByPlace);
      this.#functions = found.map((each) => ({
        address: each.address,
        id: ids.get(placeOf(each.where)) ?? '',
        vendorId: each.vendorId,
        deviceId: each.deviceId,
        classCode: each.classCode,
        found: each,
        backend: null,
      }));
    };
    let timer: NodeJS.Timeout | undefined;
    let onEnd: (() => void) | undefined;
    const failure = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const message = `not ready within ${String(startTimeout)} ms; it was killed`;
        reject(new QemuError('ERR_DMAPOOL_QEMU_TIMEOUT', message, this.output));
      }, startTimeout);
      onEnd = () => {
        reject((signal?.aborted === true ? signal.reason : this.ended.reason) as Error);
      };
      this.ended.addEventListener('abort', onEnd);
      signal?.addEventListener('abort', onEnd);
    });
    try {
      signal?.throwIfAborted();
      await Promise.race([work(), failure]);
      signal?.throwIfAborted();
      signal?.addEventListener('abort', this.#onAbort);
    } catch (error) {
      throw await startError(error, this.#options, this.#process);
    } finally {
      clearTimeout(timer);
      this.ended.removeEventListener('abort', onEnd!);
      signal?.removeEventListener('abort', onEnd!);
    }
  }

  #finishRequests(timeout: number): Promise<void> {
    return finishRequests(this.#qmp, this.#qtest, Math.max(timeout, this.#options.commandTimeout));
  }

  #find(which: string): Plugged {
    if (typeof which !== 'string' || which === '') {
      throw new DmaArgumentError('which', which, 'the address of a function, or the id of a device');
    }
    this.ended.throwIfAborted();
    const plugged = this.#functions.find(({ address, id }) => address === which || id === which);
    if (plugged === undefined) {
      const all = this.#functions.map(({ address, id }) => (id === '' ? address : `${address} (${id})`)).join(', ');
      throw new PciError('ERR_DMAPOOL_PCI_NOT_FOUND', which, `the machine has no such function; it has: ${all}`);
    }
    return plugged;
  }

  /** Removes the functions of an unplugged device. */
  #remove(id: string): void {
    const gone = this.#functions.filter((plugged) => plugged.id === id);
    this.#functions = this.#functions.filter((plugged) => plugged.id !== id);
    for (const { address, backend } of gone)
      backend?.remove(new PciGoneError(address, 'it was unplugged'), Promise.resolve());
  }
}

async function startProcess(options: CheckedOptions, args: string[], ram: MachineRam): Promise<QemuProcess> {
  const image = haltingFirmware();
  const firmware = createMemoryFile('dmapool-firmware', image.length);
  try {
    writeSync(firmware, image, 0, image.length, 0);
    return await QemuProcess.start(options.binary, args, ram.fd, firmware);
  } finally {
    closeSync(firmware);
  }
}

function checkVersion({ major, minor }: { readonly major: number; readonly minor: number }): void {
  if (major > MIN_VERSION.major || (major === MIN_VERSION.major && minor >= MIN_VERSION.minor)) return;
  const least = `${String(MIN_VERSION.major)}.${String(MIN_VERSION.minor)}`;
  throw new QemuError(
    'ERR_DMAPOOL_QEMU_VERSION',
    `version ${String(major)}.${String(minor)} is too old; ${least} or later is needed`,
  );
}

/** Turns `_DIED` into `_REFUSED` if QEMU exited with an error code before it was ready: its output has the reason. */
async function startError(error: unknown, options: CheckedOptions, process: QemuProcess): Promise<unknown> {
  if (!(error instanceof QemuError) || error.code !== 'ERR_DMAPOOL_QEMU_DIED') return error;
  const how = await process.ended;
  const exited = /exit code [1-9]/.test(how);
  return exited
    ? new QemuError('ERR_DMAPOOL_QEMU_REFUSED', `${options.binary} did not start (it ${how})`, process.output)
    : error;
}

/** Device ids in a reply to `query-pci`, by location; undefined for an invalid reply. */
function idsByPlace(answer: unknown): Map<string, string> | undefined {
  if (!Array.isArray(answer)) return undefined;
  const found = new Map<string, string>();
  // Iterative: the reply may nest bridges deeper than the call stack allows.
  const buses: unknown[] = [...(answer as unknown[])];
  while (buses.length > 0) {
    const bus = buses.pop();
    if (!isRecord(bus) || !Array.isArray(bus['devices'])) return undefined;
    for (const device of bus['devices'] as unknown[]) {
      if (!isRecord(device)) return undefined;
      const { bus: number, slot, function: fn, qdev_id: id, pci_bridge: bridge } = device;
      if (![number, slot, fn].every(Number.isSafeInteger) || typeof id !== 'string') return undefined;
      found.set(placeOf({ bus: number as number, slot: slot as number, fn: fn as number }), id);
      // A bridge without devices behind it has no list.
      if (isRecord(bridge) && bridge['devices'] !== undefined) buses.push(bridge);
    }
  }
  return found;
}

function placeOf({ bus, slot, fn }: PciLocation): string {
  return `${String(bus)} ${String(slot)} ${String(fn)}`;
}

function checkPort(port: number, width: 8 | 16 | 32): void {
  if (width !== 8 && width !== 16 && width !== 32) throw new DmaArgumentError('width', width, '8, 16 or 32');
  checkInteger('port', port, 0, 0x1_0000 - width / 8);
}
