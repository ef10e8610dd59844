/** What is done to the card as a whole: reset, general configuration, its EEPROM, switching its two halves on. */
import type { Bar, PciFunction } from 'dmapool/pci';
import { delay, waitUntil } from '../common/time.ts';
import { E1000Error } from './errors.ts';
import { CTRL, EEPROM, EERD, INTERRUPT, MTA_WORDS, RAH_VALID, RCTL, REG, TCTL, TIPG_COPPER } from './registers.ts';

/** Milliseconds for the reset, which takes microseconds. */
const RESET_TIMEOUT = 1000;

/**
 * Stops everything and resets the card (14.7, 13.4.1). No DMA afterwards, no interrupts.
 *
 * @param signal Aborted: the card may be another driver's by now, and is not written to any more.
 */
export async function resetCard(pci: PciFunction, signal?: AbortSignal): Promise<void> {
  const bar = pci.bar(0);
  bar.write32(REG.imc, INTERRUPT.all);
  bar.write32(REG.rctl, 0);
  bar.write32(REG.tctl, 0);
  // What the card was writing to memory must be there before the reset: this read comes back behind it.
  const ctrl = await bar.read32(REG.ctrl);
  signal?.throwIfAborted();
  bar.write32(REG.ctrl, ctrl | CTRL.rst);
  // Reports a failed write here: without a reset, the bit below reads 0 too.
  await bar.flush();
  // Nothing may touch the card for a microsecond (13.4.1).
  await delay(1);
  if (!(await waitUntil(async () => ((await bar.read32(REG.ctrl)) & CTRL.rst) === 0, RESET_TIMEOUT))) {
    throw new E1000Error('ERR_DMAPOOL_E1000_TIMEOUT', pci.address, 'the reset did not end within a second');
  }
  signal?.throwIfAborted();
  await silence(bar);
}

/** No interrupts, and none that stands. */
export async function silence(bar: Bar): Promise<void> {
  bar.write32(REG.imc, INTERRUPT.all);
  await bar.read32(REG.icr);
}

/** General configuration (14.3): link by negotiation, no flow control; the card's address, no multicasts (14.4). */
export function configure(bar: Bar, mac: Uint8Array): void {
  bar.write32(REG.ctrl, CTRL.slu | CTRL.asde);
  for (const register of [REG.fcal, REG.fcah, REG.fct, REG.fcttv]) bar.write32(register, 0);
  const view = new DataView(mac.buffer, mac.byteOffset, 6);
  bar.write32(REG.ral0, view.getUint32(0, true));
  bar.write32(REG.rah0, view.getUint16(4, true) | RAH_VALID);
  for (let i = 0; i < MTA_WORDS; i++) bar.write32(REG.mta + 4 * i, 0);
  // Interrupts are neither delayed nor throttled: they are masked while there is work.
  for (const register of [REG.rdtr, REG.itr]) bar.write32(register, 0);
  // 0 is not allowed here. No descriptor asks for a delayed interrupt, so the value does not matter.
  bar.write32(REG.tidv, 1);
}

/** Switches the receiver on, once its ring is in place (14.4). Called again to change what it accepts. */
export function enableReceiver(bar: Bar, promiscuous: boolean): void {
  const all = promiscuous ? RCTL.unicastAll | RCTL.multicastAll : 0;
  bar.write32(REG.rctl, RCTL.enable | RCTL.broadcast | RCTL.size2048 | RCTL.stripCrc | all);
}

/** Switches the transmitter on, once its ring is in place (14.5). */
export function enableTransmitter(bar: Bar): void {
  bar.write32(REG.tipg, TIPG_COPPER);
  bar.write32(REG.tctl, TCTL.enable | TCTL.pad | TCTL.collisionThreshold | TCTL.collisionDistance);
}

// ---- the EEPROM (5.6 and 13.4.4), which has the card's address

/** Looks at the register until a word is there. Each look takes a microsecond or more, a word on hardware about 30. */
const MAX_LOOKS = 10_000;

async function readWord(pci: PciFunction, address: number): Promise<number> {
  const bar = pci.bar(0);
  bar.write32(REG.eerd, EERD.start | (address << EERD.addressShift));
  for (let look = 0; look < MAX_LOOKS; look++) {
    const value = await bar.read32(REG.eerd);
    if ((value & EERD.done) !== 0) return value >>> EERD.dataShift;
  }
  throw new E1000Error('ERR_DMAPOOL_E1000_TIMEOUT', pci.address, `the EEPROM did not give word ${String(address)}`);
}

/**
 * Reads the card's Ethernet address, after a check of the EEPROM's sum.
 * @throws {@link E1000Error} `ERR_DMAPOOL_E1000_EEPROM` or `ERR_DMAPOOL_E1000_TIMEOUT`.
 */
export async function readMac(pci: PciFunction): Promise<Uint8Array> {
  const words: number[] = [];
  for (let address = 0; address < EEPROM.words; address++) words.push(await readWord(pci, address));
  const sum = words.reduce((total, word) => (total + word) & 0xffff, 0);
  if (sum !== EEPROM.sum) {
    const message = `the EEPROM's words add up to 0x${sum.toString(16)} instead of 0x${EEPROM.sum.toString(16)}`;
    throw new E1000Error('ERR_DMAPOOL_E1000_EEPROM', pci.address, message);
  }
  // Two bytes a word, the first one low (5.6.1).
  const mac = Uint8Array.from({ length: 6 }, (_, i) => words[EEPROM.address + (i >> 1)]! >> (8 * (i & 1)));
  if ((mac[0]! & 1) !== 0 || mac.every((byte) => byte === 0)) {
    throw new E1000Error(
      'ERR_DMAPOOL_E1000_EEPROM',
      pci.address,
      `the EEPROM holds no address of a card: ${formatMac(mac)}`,
    );
  }
  return mac;
}

/** An Ethernet address as people write it: `52:54:00:12:34:56`. */
export function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}
