/**
 * Registers and descriptors of the 82540EM that this driver uses. Section numbers refer to Intel's "PCI/PCI-X Family of
 * Gigabit Ethernet Controllers Software Developer's Manual" (317453), here called the manual.
 */

/** PCI IDs of the 82540EM (manual, 5.2): desktop, which QEMU models, and mobile. */
export const VENDOR_INTEL = 0x8086;
export const DEVICE_IDS: readonly number[] = [0x100e, 0x1015];

/** Offsets in BAR 0 (manual, 13.2). */
export const REG = {
  /** Device control, 13.4.1. */
  ctrl: 0x0000,
  /** Device status, 13.4.2. */
  status: 0x0008,
  /** EEPROM read, 13.4.4. */
  eerd: 0x0014,
  /** Flow control: address, type and timer, 13.4.8 to 13.4.12. */
  fcal: 0x0028,
  fcah: 0x002c,
  fct: 0x0030,
  fcttv: 0x0170,
  /** Interrupts: cause (cleared by reading), throttling, mask set, mask clear, 13.4.17 to 13.4.21. */
  icr: 0x00c0,
  itr: 0x00c4,
  ims: 0x00d0,
  imc: 0x00d8,
  /** Receive control, 13.4.22. */
  rctl: 0x0100,
  /** Transmit control and inter-packet gap, 13.4.33 and 13.4.34. */
  tctl: 0x0400,
  tipg: 0x0410,
  /** Receive ring, 13.4.25 to 13.4.30. */
  rdbal: 0x2800,
  rdbah: 0x2804,
  rdlen: 0x2808,
  rdh: 0x2810,
  rdt: 0x2818,
  rdtr: 0x2820,
  /** Transmit ring, 13.4.36 to 13.4.41. */
  tdbal: 0x3800,
  tdbah: 0x3804,
  tdlen: 0x3808,
  tdh: 0x3810,
  tdt: 0x3818,
  tidv: 0x3820,
  /** Multicast table, 13.5.1: 128 words. */
  mta: 0x5200,
  /** Receive address 0, 13.5.2 and 13.5.3. */
  ral0: 0x5400,
  rah0: 0x5404,
} as const;

/** Words of the multicast table (13.5.1). */
export const MTA_WORDS = 128;

/** Device control (13.4.1). */
export const CTRL = {
  /** Take speed and duplex from the PHY. */
  asde: 0x0000_0020,
  /** Set link up. */
  slu: 0x0000_0040,
  /** Reset; clears itself. */
  rst: 0x0400_0000,
} as const;

/** Device status (13.4.2). */
export const STATUS = { fullDuplex: 0x0000_0001, linkUp: 0x0000_0002, speedShift: 6, speedMask: 3 } as const;

/** EEPROM read (13.4.4), 82540 layout. */
export const EERD = { start: 0x0000_0001, done: 0x0000_0010, addressShift: 8, dataShift: 16 } as const;

/** EEPROM layout (5.6): word address of the Ethernet address; the number of words and their sum. */
export const EEPROM = { address: 0, words: 0x40, sum: 0xbaba } as const;

/** Interrupt causes (13.4.17). */
export const INTERRUPT = {
  /** Few receive descriptors are free. */
  receiveLow: 0x0000_0010,
  /** The receiver overran. */
  receiveOverrun: 0x0000_0040,
  /** A packet was received. */
  receiveTimer: 0x0000_0080,
  all: -1,
} as const;

/** Receive control (13.4.22). */
export const RCTL = {
  enable: 0x0000_0002,
  /** Unicast and multicast promiscuous. */
  unicastAll: 0x0000_0008,
  multicastAll: 0x0000_0010,
  /** Accept broadcasts. */
  broadcast: 0x0000_8000,
  /** Buffers of 2048 bytes: BSIZE 00, BSEX 0. */
  size2048: 0,
  /** Strip the Ethernet checksum (CRC). */
  stripCrc: 0x0400_0000,
} as const;

/** Transmit control (13.4.33). */
export const TCTL = {
  enable: 0x0000_0002,
  /** Pad short packets. */
  pad: 0x0000_0008,
  /** Attempts after collisions: 16, as in IEEE 802.3. */
  collisionThreshold: 0xf0,
  /** Collision distance: 64 byte times, for full duplex. */
  collisionDistance: 0x4_0000,
} as const;

/** Inter-packet gaps for copper: IPGT 10, IPGR1 8, IPGR2 6, as the manual recommends (13.4.34). */
export const TIPG_COPPER: number = 10 | (8 << 10) | (6 << 20);

/** Receive address high: address valid (13.5.3). */
export const RAH_VALID: number = 1 << 31;

/** Size of a receive descriptor (3.2.3) and of a legacy transmit descriptor (3.3.3), in bytes and in 32-bit words. */
export const DESCRIPTOR_BYTES = 16;
export const DESCRIPTOR_WORDS = 4;

/**
 * Receive descriptor (3.2.3):
 *
 *     word 0, 1   address of the buffer
 *     word 2      length 15:0, checksum 31:16
 *     word 3      status 7:0, errors 15:8, special 31:16        written last
 */
export const RX = {
  done: 0x0000_0001,
  endOfPacket: 0x0000_0002,
  /** Errors: CRC, symbol, sequence, carrier extension, data; bits 0, 1, 2, 4 and 7 (3.2.3.2). */
  errors: 0x9700,
} as const;

/**
 * Legacy transmit descriptor (3.3.3):
 *
 *     word 0, 1   address of the buffer
 *     word 2      length 15:0, checksum offset 23:16, command 31:24
 *     word 3      status 3:0, checksum start 15:8, special 31:16
 */
export const TX = {
  endOfPacket: 0x0100_0000,
  /** Append the Ethernet checksum (CRC). */
  insertFcs: 0x0200_0000,
  /** Report status: set the done bit after transmission. */
  reportStatus: 0x0800_0000,
  /** Word 3: done, excessive collisions, late collision. */
  done: 0x0000_0001,
  excessCollisions: 0x0000_0002,
  lateCollision: 0x0000_0004,
} as const;

/** Minimum packet length on the wire in bytes, without the checksum (IEEE 802.3, 4.4.2). */
export const MIN_WIRE_BYTES = 60;
/** Length of an Ethernet header in bytes. */
export const HEADER_BYTES = 14;
/** Maximum packet length in bytes, without the checksum: 1500 bytes of payload, header and VLAN tag. */
export const MAX_PACKET_BYTES = 1518;
/** Size of a buffer in bytes. */
export const BUFFER_BYTES = 2048;
