/** Driver of a virtio disk. Sections are those of "Virtual I/O Device (VIRTIO) Version 1.2". */
import { type DmaBlock, dmaBitMask, DmaPool, loadAcquire16, lower32Bits } from 'dmapool';
import { storeRelease16, upper32Bits, writeAddress64 } from 'dmapool';
import { type BarWindow, type Interrupts, PCI_CAPABILITY, type PciFunction, waitFor } from 'dmapool/pci';

/** A disk that is no transitional device (4.1.2): vendor, and 0x1040 plus the device ID of 5.2.1. */
const [VENDOR, DEVICE] = [0x1af4, 0x1042];
/** Types of the structures in BARs (4.1.4): common, notifications, and what only disks have. */
const [COMMON, NOTIFY, DISK] = [1, 2, 4];
/** Fields of the common structure (4.1.4.3): features of both sides, a word at a time; status; the selected queue. */
const FEATURES = { deviceSelect: 0x00, device: 0x04, driverSelect: 0x08, driver: 0x0c };
const STATUS = 0x14;
const QUEUE = { select: 0x16, size: 0x18, vector: 0x1a, enable: 0x1c, notifyOffset: 0x1e };
const QUEUE_ADDRESS = { descriptors: 0x20, available: 0x28, used: 0x30 };
/** Bits of the status (2.1). */
const [ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK] = [1, 2, 4, 8];
/** Features (5.2.3 and 6): bit 9; bits 32 and 33 are bits 0 and 1 of the second word. */
const [FLUSH, VERSION_1, ACCESS_PLATFORM] = [1 << 9, 1, 2];
/** Flags of a descriptor (2.7.5): another one follows; the device writes to it. */
const [NEXT, WRITE] = [1, 2];
/** Types of requests (5.2.6). */
const [READ_SECTORS, WRITE_SECTORS, FLUSH_CACHE] = [0, 1, 4];
const SECTOR = 512;
/** Largest queue whose three parts fit in a block of 4096 bytes. */
const MAX_QUEUE_SIZE = 128;
/** Milliseconds without an answer after which the device counts as hung. */
const TIMEOUT = 10_000;

/** Finds the structures: each has a capability that names its BAR and its place there (4.1.4). */
async function findStructures(pci: PciFunction) {
  const found = new Map<number, BarWindow>();
  let doorbellStride = 0; // bytes between the doorbells of two queues
  for (const capability of await pci.config.findCapabilities(PCI_CAPABILITY.vendorSpecific)) {
    const [type, bar] = [await capability.read8(3), await capability.read8(4)];
    // The first of a type counts; types and BARs above those of today are reserved (4.1.4.1).
    if (found.has(type) || ![COMMON, NOTIFY, DISK].includes(type) || bar > 5) continue;
    found.set(type, pci.bar(bar).window(await capability.read32(8), await capability.read32(12)));
    if (type === NOTIFY) doorbellStride = await capability.read32(16);
  }
  const [common, notify, disk] = [found.get(COMMON), found.get(NOTIFY), found.get(DISK)];
  if (common === undefined || notify === undefined || disk === undefined) {
    throw new Error(`${pci.address} lacks a structure of a virtio disk`);
  }
  return { common, notify, disk, doorbellStride };
}

/** Agrees on the features (3.1.1, steps 2 to 6). @returns The status so far. */
async function negotiate(address: string, common: BarWindow, iommu: boolean): Promise<number> {
  const offered: number[] = [];
  common.write8(STATUS, ACKNOWLEDGE);
  common.write8(STATUS, ACKNOWLEDGE | DRIVER);
  for (const word of [0, 1]) {
    common.write32(FEATURES.deviceSelect, word);
    offered[word] = await common.read32(FEATURES.device);
  }
  if ((offered[1]! & VERSION_1) === 0) throw new Error(`${address} is older than virtio 1.0`);
  // Such a device takes every address as a physical one: it would read and write any memory of the system.
  if (iommu && (offered[1]! & ACCESS_PLATFORM) === 0) throw new Error(`${address} would bypass the IOMMU`);
  for (const [word, known] of [FLUSH, VERSION_1 | ACCESS_PLATFORM].entries()) {
    common.write32(FEATURES.driverSelect, word);
    common.write32(FEATURES.driver, offered[word]! & known);
  }
  const status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
  common.write8(STATUS, status);
  if ((await common.read8(STATUS)) !== status) throw new Error(`${address} refuses these features`);
  return status;
}

/** A split virtqueue (2.7) in one block: descriptors, then the available ring, then the used ring. */
class SplitQueue {
  readonly size: number;
  readonly available: number;
  readonly used: number;
  readonly #block: DmaBlock;
  /** Chains given to the device and taken back so far, modulo 2^16. */
  #given = 0;
  #taken = 0;

  constructor(block: DmaBlock, size: number) {
    this.#block = block;
    this.size = size;
    this.available = 16 * size;
    this.used = Math.ceil((this.available + 6 + 2 * size) / 4) * 4;
  }

  /** Writes a descriptor (2.7.5). */
  describe(index: number, address: number, length: number, flags: number, next = 0): void {
    const { view } = this.#block;
    writeAddress64(view, 16 * index, address);
    view.setUint32(16 * index + 8, length, true);
    view.setUint16(16 * index + 12, flags, true);
    view.setUint16(16 * index + 14, next, true);
  }

  /** Gives a chain to the device (2.7.13). The index is written last: from then on the device may read the chain. */
  give(head: number): void {
    const { u16 } = this.#block;
    u16[this.available / 2 + 2 + (this.#given % this.size)] = head;
    this.#given = (this.#given + 1) & 0xffff;
    storeRelease16(u16, this.available / 2 + 1, this.#given);
  }

  /** The device needs no notification at present (2.7.10). */
  get isPolled(): boolean {
    return (loadAcquire16(this.#block.u16, this.used / 2) & 1) !== 0;
  }

  /** The device has finished a chain. Its index is read first, then the entry. */
  get hasUsed(): boolean {
    return loadAcquire16(this.#block.u16, this.used / 2 + 1) !== this.#taken;
  }

  /** Takes a finished chain back (2.7.14). @returns Its first descriptor, as the device names it. */
  take(): number {
    const head = this.#block.view.getUint32(this.used + 4 + 8 * (this.#taken % this.size), true);
    this.#taken = (this.#taken + 1) & 0xffff;
    return head;
  }
}

interface Request {
  /** 16 bytes that the device reads, and one that it writes: the status (5.2.6). */
  readonly header: DmaBlock;
  readonly resolve: () => void;
  readonly reject: (reason: Error) => void;
}

/**
 * A virtio disk. A request's block belongs to the device until the promise settles. If it rejects with
 * `ERR_DMAPOOL_PCI_DMA_ACTIVE`, nothing stopped the device: keep the block.
 */
export class VirtioBlk {
  readonly #pci: PciFunction;
  readonly #endClaim: () => void;
  /** Aborted, with the reason, when the driver accepts no more requests. */
  readonly #ended = new AbortController();
  readonly #pools: DmaPool[] = [];
  readonly #inFlight = new Map<number, Request>();
  /** First descriptors of the free chains. A chain has three: header, data, status. */
  readonly #heads: number[] = [];
  #common: BarWindow | undefined;
  #interrupts: Interrupts | undefined;
  #queue!: SplitQueue;
  #doorbell!: BarWindow;
  #headers!: DmaPool;
  #ring: DmaBlock | undefined;
  #isServing = false;
  #isNotifying = false;
  /** Size of the disk in sectors of 512 bytes. */
  sectors = 0;

  private constructor(pci: PciFunction) {
    this.#pci = pci;
    this.#endClaim = pci.claim('virtio-blk');
  }

  /** Opens a disk. @param options `iommu`: the device must keep to the IOMMU, as through VFIO. */
  static async open(pci: PciFunction, options: { readonly iommu?: boolean } = {}): Promise<VirtioBlk> {
    if (pci.vendorId !== VENDOR || pci.deviceId !== DEVICE) throw new Error(`${pci.address} is no virtio 1.x disk`);
    const disk = new VirtioBlk(pci);
    try {
      await disk.#start(options.iommu === true);
      return disk;
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  async #start(iommu: boolean): Promise<void> {
    const { address, device } = this.#pci;
    device.setDmaMask(dmaBitMask(64));
    const { common, notify, disk, doorbellStride } = await findStructures(this.#pci);
    this.#common = common;
    await this.#reset();
    const status = await negotiate(address, common, iommu);
    this.sectors = (await disk.read32(0)) + (await disk.read32(4)) * 2 ** 32;
    await this.#createQueue(common);
    this.#doorbell = notify.window(doorbellStride * (await common.read16(QUEUE.notifyOffset)), 2);
    await this.#pci.enableBusMaster();
    common.write8(STATUS, status | DRIVER_OK);
    await common.flush();
  }

  /** Creates the queue of requests, number 0, with vector 0 (4.1.5.1.2, 4.1.5.1.3). */
  async #createQueue(common: BarWindow): Promise<void> {
    const { address, device } = this.#pci;
    common.write16(QUEUE.select, 0);
    const size = Math.min(await common.read16(QUEUE.size), MAX_QUEUE_SIZE);
    for (let head = 0; head + 3 <= size; head += 3) this.#heads.push(head);
    const rings = DmaPool.createManaged('virtqueue', device, { size: 4096, align: 4096 });
    const maxBlocks = this.#heads.length;
    this.#headers = DmaPool.createManaged('virtio-blk header', device, { size: 32, align: 32, maxBlocks });
    this.#pools.push(rings, this.#headers);
    this.#ring = rings.alloc({ zero: true });
    this.#queue = new SplitQueue(this.#ring, size);
    this.#interrupts = await this.#pci.interrupts({ kinds: ['msix'] });
    common.write16(QUEUE.size, size);
    common.write16(QUEUE.vector, 0);
    if ((await common.read16(QUEUE.vector)) !== 0) throw new Error(`${address} has no vector for its queue`);
    for (const [field, offset] of [
      [QUEUE_ADDRESS.descriptors, 0],
      [QUEUE_ADDRESS.available, this.#queue.available],
      [QUEUE_ADDRESS.used, this.#queue.used],
    ] as const) {
      // 64-bit fields are written as two words (4.1.3.1).
      common.write32(field, lower32Bits(this.#ring.dma + offset));
      common.write32(field + 4, upper32Bits(this.#ring.dma + offset));
    }
    common.write16(QUEUE.enable, 1);
  }

  /** Reads `bytes`, a multiple of 512, into a block. */
  read(sector: number, data: DmaBlock, bytes: number = data.size): Promise<void> {
    return this.#request(READ_SECTORS, sector, data.dma, bytes);
  }

  /** Writes `bytes`, a multiple of 512, from a block. */
  write(sector: number, data: DmaBlock, bytes: number = data.size): Promise<void> {
    return this.#request(WRITE_SECTORS, sector, data.dma, bytes);
  }

  /** Makes earlier writes durable. */
  flush(): Promise<void> {
    return this.#request(FLUSH_CACHE, 0, 0, 0);
  }

  async #request(type: number, sector: number, address: number, bytes: number): Promise<void> {
    if (bytes % SECTOR !== 0 || sector < 0 || sector + bytes / SECTOR > this.sectors) {
      throw new RangeError(`sector ${sector} and ${bytes} bytes are not on the disk`);
    }
    // Waits while all chains are in use.
    const { signal } = this.#ended;
    const header = await this.#headers.allocWait({ signal, zero: true });
    if (signal.aborted) {
      header.free();
      throw signal.reason as Error;
    }
    const head = this.#heads.pop()!;
    header.u32[0] = type;
    writeAddress64(header.view, 8, sector);
    header.bytes[16] = 0xff; // no status yet
    this.#queue.describe(head, header.dma, 16, NEXT, bytes === 0 ? head + 2 : head + 1);
    this.#queue.describe(head + 1, address, bytes, type === READ_SECTORS ? NEXT | WRITE : NEXT, head + 2);
    this.#queue.describe(head + 2, header.dma + 16, 1, WRITE);
    await new Promise<void>((resolve, reject) => {
      this.#inFlight.set(head, { header, resolve, reject });
      this.#queue.give(head);
      this.#notify();
    });
  }

  /** Rings the doorbell once for all requests of this turn, and serves the queue. */
  #notify(): void {
    if (this.#isNotifying) return;
    this.#isNotifying = true;
    queueMicrotask(() => {
      this.#isNotifying = false;
      if (!this.#isServing) void this.#serve();
      if (!this.#pci.closed && !this.#queue.isPolled) this.#doorbell.write16(0, 0);
    });
  }

  /** Waits for interrupts while requests are in flight. */
  async #serve(): Promise<void> {
    this.#isServing = true;
    try {
      while (this.#inFlight.size > 0) {
        const isWoken = await this.#interrupts!.wait({ timeout: TIMEOUT, ready: () => this.#queue.hasUsed });
        if (!isWoken && !this.#queue.hasUsed) throw new Error(`${this.#pci.address} gave no answer in ${TIMEOUT} ms`);
        while (this.#queue.hasUsed) this.#complete(this.#queue.take());
      }
    } catch (error) {
      // An unplugged or hung device, or one that breaks the protocol.
      await this.#stop(error as Error).catch(() => undefined);
    } finally {
      this.#isServing = false;
    }
  }

  #complete(head: number): void {
    const { address } = this.#pci;
    const request = this.#inFlight.get(head);
    if (request === undefined) throw new Error(`${address} finished chain ${head}, which is not in flight`);
    const status = request.header.bytes[16]!;
    this.#inFlight.delete(head);
    this.#heads.push(head);
    request.header.free();
    if (status === 0) request.resolve();
    else request.reject(new Error(`${address} failed a request with status ${status}`));
  }

  /** Resets the device (2.4): afterwards it does not access its queue. */
  async #reset(): Promise<void> {
    const common = this.#common!;
    common.write8(STATUS, 0);
    await waitFor(async () => (await common.read8(STATUS)) === 0, { timeout: 1000 });
  }

  /** Stops the device. Requests in flight settle, and their memory is freed, only with the proof that it stopped. */
  async #stop(reason: Error): Promise<void> {
    this.#ended.abort(reason);
    try {
      await this.#pci.stopDma({ stop: () => this.#reset() });
    } catch (active) {
      for (const { reject } of this.#inFlight.values()) reject(active as Error);
      throw active;
    }
    for (const { header, reject } of this.#inFlight.values()) {
      header.free();
      reject(reason);
    }
    this.#inFlight.clear();
  }

  /** Closes the driver; requests in flight fail. If nothing stops the device it rejects, and `pci.close()` tries again. */
  async close(): Promise<void> {
    await this.#stop(new Error(`${this.#pci.address}: the driver was closed`));
    await this.#interrupts?.close();
    this.#ring?.free();
    this.#ring = undefined;
    for (const pool of this.#pools.splice(0)) pool.destroy();
    this.#endClaim();
  }
}
