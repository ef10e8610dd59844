/**
 * Queue heads and queue element transfer descriptors (qTDs) in memory. EHCI 1.0, chapter 3.
 *
 *     asynchronous list, a ring                       one endpoint's transfers, a chain
 *
 *     +-> head (H) --> QH, endpoint 0 --> QH, bulk in --+
 *     |                                     |           |
 *     +-------------------------------------+-----------+
 *                                           +- next --> qTD --> qTD --> dummy (not active: the end)
 *
 * All words are little-endian. Indices below count 32-bit words.
 */
import { type DmaBlock, storeRelease32 } from 'dmapool';
import type { DmaStopped } from 'dmapool/pci';

/** Geometry of both descriptor pools, as in Linux: 17 or 13 hardware words, and room for the driver's data. */
export const DESCRIPTOR_POOL = { size: 96, align: 32, boundary: 4096 } as const;

export type QhBlock = DmaBlock<'ehci_qh'>;
export type QtdBlock = DmaBlock<'ehci_qtd'>;

/** Link pointers: bit 0 terminates the list, bits 2:1 are the type of the target (3.6.1). */
export const LINK = { terminate: 1, queueHead: 0x2 } as const;

/** Queue head (3.6). The words from `next` on are the overlay: a copy of the current qTD. */
export const QH = {
  link: 0,
  characteristics: 1,
  capabilities: 2,
  current: 3,
  next: 4,
  alternate: 5,
  token: 6,
  words: 17,
} as const;

/** Endpoint characteristics (3.6.2). */
export const CHARACTERISTICS = {
  endpointShift: 8,
  /** High speed. */
  speedHigh: 0x2000,
  /** The data toggle comes from each qTD instead of the overlay: for control endpoints. */
  toggleFromQtd: 0x4000,
  /** Head of the reclamation list. */
  head: 0x8000,
  packetShift: 16,
  /** NAK count reload: after 4 NAKs the endpoint is skipped until the next traversal of the ring (4.9). */
  nakReload: 0x4000_0000,
} as const;

/** Endpoint capabilities: one transaction per traversal (3.6.2, Mult). */
export const CAPABILITIES_MULT_1 = 0x4000_0000;

/** Queue element transfer descriptor (3.5). */
export const QTD = { next: 0, alternate: 1, token: 2, buffer: 3, words: 13 } as const;
/** Byte offset of the SETUP packet in its qTD's block, behind the hardware's words. */
export const SETUP_OFFSET = 64;
export const SETUP_SIZE = 8;

/** A qTD points to up to five pages (3.5.4). */
export const PAGE = 4096;
export const PAGES_PER_QTD = 5;
export const BYTES_PER_QTD: number = PAGE * PAGES_PER_QTD;

/** qTD token (3.5.3). */
export const TOKEN = {
  babble: 0x10,
  dataBufferError: 0x20,
  halted: 0x40,
  active: 0x80,
  /** CERR: three attempts. */
  errorCount3: 0xc00,
  interrupt: 0x8000,
  lengthShift: 16,
  lengthMask: 0x7fff,
  toggle: 0x8000_0000,
} as const;

/** PID code of a transaction: bits 9:8 of the token. */
export const PID = { out: 0x000, in: 0x100, setup: 0x200 } as const;
export type Pid = (typeof PID)[keyof typeof PID];

declare const UNLINKED: unique symbol;

/**
 * Proof that the controller uses neither a queue head nor its qTDs any more. Only `AsyncSchedule.unlink` makes it.
 */
export interface Unlinked {
  /** Type-level brand, absent at run time: no other object type-checks as a proof. */
  readonly [UNLINKED]: true;
}

/** Proof that memory which the controller used may be released: see {@link Unlinked} and `PciFunction.stopDma`. */
export type ReleaseProof = Unlinked | DmaStopped;

/** Link pointer to a descriptor. */
export function linkTo(block: QhBlock | QtdBlock, type = 0): number {
  // Fits in 32 bits: the DMA mask is 32 bits.
  return block.dma + type;
}

/** Initializes the queue head of an idle endpoint. `next` links to its dummy, an inactive qTD. */
export function writeQueueHead(qh: QhBlock, characteristics: number, capabilities: number, next: number): void {
  const words = qh.u32;
  words.fill(0, 0, QH.words);
  words[QH.link] = LINK.terminate;
  words[QH.characteristics] = characteristics;
  words[QH.capabilities] = capabilities;
  writeOverlay(qh, next, 0);
}

/** Clears the overlay, so that the queue continues at `next`. The queue head must be unlinked. */
export function writeOverlay(qh: QhBlock, next: number, toggle: number): void {
  const words = qh.u32;
  words.fill(0, QH.current, QH.words);
  words[QH.next] = next;
  words[QH.alternate] = LINK.terminate;
  storeRelease32(words, QH.token, toggle);
}

/** Initializes the dummy, the inactive qTD at the end of a queue: the controller stops at it. */
export function writeDummy(qtd: QtdBlock): void {
  const words = qtd.u32;
  words.fill(0, 0, QTD.words);
  words[QTD.next] = LINK.terminate;
  words[QTD.alternate] = LINK.terminate;
}
