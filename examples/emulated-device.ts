/**
 * An emulated device behind the software IOMMU: a copy engine with a submission ring, as a test double for a driver.
 *
 *     driver --commands in a ring--> engine --IOMMU--> the memory of its own pools
 *                                                 \--> all other memory: a fault
 *
 * The engine has no access to JavaScript objects of the driver. Like hardware, it has registers and addresses only. A
 * driver that passes a wrong address, or frees a block that the engine still uses, is found at once.
 */
import {
  Device,
  type DmaBlock,
  DmaPool,
  HeapMemory,
  IommuFaultError,
  loadAcquire32,
  readAddress64,
  storeRelease32,
  writeAddress64,
} from 'dmapool';

const ENTRIES = 16;
/** A command: source and destination (8 bytes each), length and status (4 bytes each), 8 bytes unused. */
const COMMAND = 32;
const LENGTH = 16;
const STATUS = 5;
const PENDING = 0;
const COPIED = 1;
const FAULT = 2;

/** The device. Its registers are the ring's address and the tail. */
class CopyEngine {
  readonly #memory: HeapMemory;
  readonly #device: Device;
  ring = 0;
  #head = 0;

  constructor(memory: HeapMemory, device: Device) {
    this.#memory = memory;
    this.#device = device;
  }

  /** The tail register: executes the commands up to this one. */
  writeTail(tail: number): void {
    for (; this.#head !== tail; this.#head = (this.#head + 1) % ENTRIES)
      this.#execute(this.ring + this.#head * COMMAND);
  }

  #execute(address: number): void {
    const command = this.#memory.translate(this.#device, address, COMMAND);
    const view = new DataView(command.buffer, command.byteOffset, COMMAND);
    const words = new Int32Array(command.buffer, command.byteOffset, COMMAND / 4);
    const data = new Uint8Array(view.getUint32(LENGTH, true));
    let status = COPIED;
    try {
      this.#memory.read(this.#device, readAddress64(view, 0), data);
      this.#memory.write(this.#device, readAddress64(view, 8), data);
    } catch (error) {
      if (!(error instanceof IommuFaultError)) throw error;
      console.log(`  ${error.message}`);
      status = FAULT;
    }
    storeRelease32(words, STATUS, status); // last: now the driver may look
  }
}

/** The driver. */
class CopyDriver {
  readonly #engine: CopyEngine;
  readonly #ring: DmaBlock<'commands'>;
  #tail = 0;

  constructor(engine: CopyEngine, device: Device) {
    this.#engine = engine;
    this.#ring = DmaPool.createManaged('commands', device, { size: ENTRIES * COMMAND, align: 64 }).alloc({
      zero: true,
    });
    engine.ring = this.#ring.dma;
  }

  /** Copies `length` bytes between addresses of the device. */
  copy(from: number, to: number, length: number): 'copied' | 'fault' {
    const { view, u32 } = this.#ring;
    const at = this.#tail * COMMAND;
    const status = at / 4 + STATUS;
    writeAddress64(view, at, from);
    writeAddress64(view, at + 8, to);
    view.setUint32(at + LENGTH, length, true);
    storeRelease32(u32, status, PENDING); // before the tail register: the command is complete
    this.#tail = (this.#tail + 1) % ENTRIES;
    this.#engine.writeTail(this.#tail);
    const result = loadAcquire32(u32, status);
    if (result === PENDING) throw new Error('the engine did not answer');
    return result === COPIED ? 'copied' : 'fault';
  }

  close(): void {
    this.#ring.free();
  }
}

const memory = new HeapMemory();
const device = new Device({ name: 'copy0', memory });
const driver = new CopyDriver(new CopyEngine(memory, device), device);
const buffers = DmaPool.createManaged('buffers', device, { size: 4096, align: 4096 });

const source = buffers.alloc();
const target = buffers.alloc();
source.bytes.fill(0x5a);
console.log(`within the pool: ${driver.copy(source.dma, target.dma, 4096)}`);
console.log(`all bytes are equal: ${String(target.bytes.every((byte) => byte === 0x5a))}`);

// An address that was computed wrongly: it is beyond the pool's pages.
console.log(`one page too far: ${driver.copy(source.dma, target.dma + 0x10_0000, 4096)}`);

// An address of another device: it is valid for that device alone.
const disk = new Device({ name: 'disk0', memory });
const sectors = DmaPool.createManaged('sectors', disk, { size: 4096, align: 4096 });
const blocks = Array.from({ length: 64 }, () => sectors.alloc({ zero: true }));
const last = blocks.at(-1)!;
console.log(`another device's memory: ${driver.copy(source.dma, last.dma, 4096)}`);
console.log(`changed there: ${String(last.bytes.some((byte) => byte !== 0))}`);

// A page that went back to the memory source: the device can't reach it any more.
const late = target.dma;
buffers.free(target);
buffers.trim();
console.log(`after the block was freed and its page returned: ${driver.copy(source.dma, late, 64)}`);
console.log(`the IOMMU stopped ${memory.faults} accesses`);

buffers.free(source);
sectors.freeBulk(blocks);
driver.close();
device.detach();
disk.detach();
