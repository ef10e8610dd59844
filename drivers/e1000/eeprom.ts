/** The EEPROM (manual, 5.6 and 13.4.4): where the card's address is. */
import type { PciFunction } from 'dmapool/pci';
import { E1000Error } from './errors.ts';
import { EEPROM, EERD, REG } from './registers.ts';

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
