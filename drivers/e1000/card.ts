/** Operations on the whole card: reset, general configuration, EEPROM, enabling the receiver and transmitter. */
import type { Bar, PciFunction } from 'dmapool/pci';
import { delay, waitUntil } from '../common/time.ts';
import { E1000Error } from './errors.ts';
import { CTRL, EEPROM, EERD, INTERRUPT, MTA_WORDS, RAH_VALID, RCTL, REG, TCTL, TIPG_COPPER } from './registers.ts';

/** Time limit of the reset in milliseconds. A reset takes microseconds. */
const RESET_TIMEOUT = 1000;

/**
 * Stops both directions and resets the card (14.7, 13.4.1). Afterwards it does no DMA and raises no interrupts.
 *
 * @param signal Once it is aborted, nothing is written: another driver may own the card.
 */
export async function resetCard(pci: PciFunction, signal?: AbortSignal): Promise<void> {
  const bar = pci.bar(0);
  bar.write32(REG.imc, INTERRUPT.all);
  bar.write32(REG.rctl, 0);
  bar.write32(REG.tctl, 0);
  // Reads are ordered behind the card's writes to memory: when this read completes, those have reached memory.
  const ctrl = await bar.read32(REG.ctrl);
  signal?.throwIfAborted();
  bar.write32(REG.ctrl, ctrl | CTRL.rst);
  // Throws if the write failed. Without this, a reset that was never requested would look complete below.
  await bar.flush();
  // No register may be accessed for 1 µs after the reset (13.4.1).
  await delay(1);
  if (!(await waitUntil(async () => ((await bar.read32(REG.ctrl)) & CTRL.rst) === 0, RESET_TIMEOUT))) {
    throw new E1000Error('ERR_DMAPOOL_E1000_TIMEOUT', pci.address, 'the reset did not complete within 1 second');
  }
  signal?.throwIfAborted();
  await silence(bar);
}

/** Masks all interrupts and clears their causes. */
export async function silence(bar: Bar): Promise<void> {
  bar.write32(REG.imc, INTERRUPT.all);
  await bar.read32(REG.icr);
}

/** General configuration (14.3): automatic link setup, no flow control. Accepts `mac` and no multicasts (14.4). */
export function configure(bar: Bar, mac: Uint8Array): void {
  bar.write32(REG.ctrl, CTRL.slu | CTRL.asde);
  for (const register of [REG.fcal, REG.fcah, REG.fct, REG.fcttv]) bar.write32(register, 0);
  const view = new DataView(mac.buffer, mac.byteOffset, 6);
  bar.write32(REG.ral0, view.getUint32(0, true));
  bar.write32(REG.rah0, view.getUint16(4, true) | RAH_VALID);
  for (let i = 0; i < MTA_WORDS; i++) bar.write32(REG.mta + 4 * i, 0);
  // No delay and no throttling: the driver masks interrupts while it has work.
  for (const register of [REG.rdtr, REG.itr]) bar.write32(register, 0);
  // TIDV must not be 0. No descriptor requests a delayed interrupt, so any other value will do.
  bar.write32(REG.tidv, 1);
}

/** Enables the receiver (14.4). Its ring must be installed. May be called again to change the filter. */
export function enableReceiver(bar: Bar, promiscuous: boolean): void {
  const all = promiscuous ? RCTL.unicastAll | RCTL.multicastAll : 0;
  bar.write32(REG.rctl, RCTL.enable | RCTL.broadcast | RCTL.size2048 | RCTL.stripCrc | all);
}

/** Enables the transmitter (14.5). Its ring must be installed. */
export function enableTransmitter(bar: Bar): void {
  bar.write32(REG.tipg, TIPG_COPPER);
  bar.write32(REG.tctl, TCTL.enable | TCTL.pad | TCTL.collisionThreshold | TCTL.collisionDistance);
}

// ---- EEPROM (5.6, 13.4.4): holds the card's Ethernet address

/** Maximum polls for one word. A poll takes a microsecond or more; hardware reads a word in about 30. */
const MAX_POLLS = 10_000;

async function readWord(pci: PciFunction, address: number): Promise<number> {
  const bar = pci.bar(0);
  bar.write32(REG.eerd, EERD.start | (address << EERD.addressShift));
  for (let poll = 0; poll < MAX_POLLS; poll++) {
    const value = await bar.read32(REG.eerd);
    if ((value & EERD.done) !== 0) return value >>> EERD.dataShift;
  }
  throw new E1000Error('ERR_DMAPOOL_E1000_TIMEOUT', pci.address, `the EEPROM did not return word ${String(address)}`);
}

/**
 * Reads the card's Ethernet address and verifies the EEPROM's checksum.
 * @throws {@link E1000Error} `ERR_DMAPOOL_E1000_EEPROM`, `ERR_DMAPOOL_E1000_TIMEOUT`
 */
export async function readMac(pci: PciFunction): Promise<Uint8Array> {
  const words: number[] = [];
  for (let address = 0; address < EEPROM.words; address++) words.push(await readWord(pci, address));
  const sum = words.reduce((total, word) => (total + word) & 0xffff, 0);
  if (sum !== EEPROM.sum) {
    const message = `wrong EEPROM checksum: 0x${sum.toString(16)} instead of 0x${EEPROM.sum.toString(16)}`;
    throw new E1000Error('ERR_DMAPOOL_E1000_EEPROM', pci.address, message);
  }
  // Two bytes per word, low byte first (5.6.1).
  const mac = Uint8Array.from({ length: 6 }, (_, i) => words[EEPROM.address + (i >> 1)]! >> (8 * (i & 1)));
  if ((mac[0]! & 1) !== 0 || mac.every((byte) => byte === 0)) {
    throw new E1000Error(
      'ERR_DMAPOOL_E1000_EEPROM',
      pci.address,
      `the EEPROM holds no unicast address: ${formatMac(mac)}`,
    );
  }
  return mac;
}

/** An Ethernet address in text form: `52:54:00:12:34:56`. */
export function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}
