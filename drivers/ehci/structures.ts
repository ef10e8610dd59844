/**
 * What the controller reads from memory: queue heads and queue element transfer descriptors. EHCI 1.0, chapter 3.
 *
 *     asynchronous list, a ring                       one endpoint's transfers, a chain
 *
 *     +-> head (H) --> QH, endpoint 0 --> QH, bulk in --+
 *     |                                     |           |
 *     +-------------------------------------+-----------+
 *                                           +- next --> qTD --> qTD --> dummy (not active: the end)
 *
 * All words are little-endian; indices below count words of 32 bits.
 */
import { type DmaBlock, storeRelease32 } from 'dmapool';
import type { DmaStopped } from 'dmapool/pci';

/** Both from pools of this geometry, as in Linux: the hardware's 17 or 13 words, and room for what is ours. */
export const DESCRIPTOR_POOL = { size: 96, align: 32, boundary: 4096 } as const;

export type QhBlock = DmaBlock<'ehci_qh'>;
export type QtdBlock = DmaBlock<'ehci_qtd'>;

/** Link pointers: bit 0 ends the list, bits 2:1 say what follows (3.6.1). */
export const LINK = { terminate: 1, queueHead: 0x2 } as const;

/** Queue head (3.6). From `next` on it is the overlay: a copy of the qTD that is being executed. */
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
  /** The data toggle comes from each qTD, not from the overlay: for control endpoints. */
  toggleFromQtd: 0x4000,
  /** The head of the ring. */
  head: 0x8000,
  packetShift: 16,
  /** NAKs after which the endpoint rests until the ring was walked: 4 (4.9). */
  nakReload: 0x4000_0000,
} as const;

/** Endpoint capabilities: one transaction a visit (3.6.2, Mult). */
export const CAPABILITIES_MULT_1 = 0x4000_0000;

/** Queue element transfer descriptor (3.5). */
export const QTD = { next: 0, alternate: 1, token: 2, buffer: 3, words: 13 } as const;
/** Where the SETUP packet lies, in bytes: in its own descriptor's block, behind what the hardware uses. */
export const SETUP_OFFSET = 64;
export const SETUP_SIZE = 8;

/** A qTD points to five pages (3.5.4). */
export const PAGE = 4096;
export const PAGES_A_QTD = 5;
export const BYTES_A_QTD: number = PAGE * PAGES_A_QTD;

/** qTD token (3.5.3). */
export const TOKEN = {
  babble: 0x10,
  dataBufferError: 0x20,
  halted: 0x40,
  active: 0x80,
  /** Three attempts. */
  errorCount3: 0xc00,
  interrupt: 0x8000,
  lengthShift: 16,
  lengthMask: 0x7fff,
  toggle: 0x8000_0000,
} as const;

/** What a transaction is, in the token's bits 9:8. */
export const PID = { out: 0x000, in: 0x100, setup: 0x200 } as const;
export type Pid = (typeof PID)[keyof typeof PID];

declare const UNLINKED: unique symbol;

/**
 * Proof that the controller does not know a queue head any more, nor anything that hangs on it. Made by
 * `AsyncSchedule.unlink` alone.
 */
export interface Unlinked {
  /** Not there at run time: it keeps other objects from being taken for a proof. */
  readonly [UNLINKED]: true;
}

/** Why memory that the controller was told of may be released: see {@link Unlinked} and `PciFunction.stopDma`. */
export type ReleaseProof = Unlinked | DmaStopped;

/** The bus address of a descriptor, as a link to it. */
export function linkTo(block: QhBlock | QtdBlock, type = 0): number {
  // Within 32 bits: the device's mask says so.
  return block.dma + type;
}

/** Makes a block the queue head of an endpoint that has nothing to do; `next` is its qTD that is not active. */
export function writeQueueHead(qh: QhBlock, characteristics: number, capabilities: number, next: number): void {
  const words = qh.u32;
  words.fill(0, 0, QH.words);
  words[QH.link] = LINK.terminate;
  words[QH.characteristics] = characteristics;
  words[QH.capabilities] = capabilities;
  writeOverlay(qh, next, 0);
}

/** Empties the overlay, so that the queue goes on at `next`. The controller must not know the queue head now. */
export function writeOverlay(qh: QhBlock, next: number, toggle: number): void {
  const words = qh.u32;
  words.fill(0, QH.current, QH.words);
  words[QH.next] = next;
  words[QH.alternate] = LINK.terminate;
  storeRelease32(words, QH.token, toggle);
}

/** Makes a block the qTD at the end of a queue: not active, so the controller stays before it. */
export function writeDummy(qtd: QtdBlock): void {
  const words = qtd.u32;
  words.fill(0, 0, QTD.words);
  words[QTD.next] = LINK.terminate;
  words[QTD.alternate] = LINK.terminate;
}
