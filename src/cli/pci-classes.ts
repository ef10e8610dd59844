/** Names of PCI classes (PCI Code and ID Assignment Specification, section 1): those one meets. */

const SUBCLASSES: Readonly<Record<number, string>> = {
  0x0100: 'SCSI storage',
  0x0101: 'IDE storage',
  0x0104: 'RAID storage',
  0x0106: 'SATA storage',
  0x0107: 'SAS storage',
  0x0108: 'NVMe storage',
  0x0200: 'Ethernet',
  0x0207: 'InfiniBand',
  0x0280: 'network',
  0x0300: 'VGA display',
  0x0302: '3D display',
  0x0403: 'HD audio',
  0x0600: 'host bridge',
  0x0601: 'ISA bridge',
  0x0604: 'PCI bridge',
  0x0880: 'system device',
  0x0c03: 'USB',
  0x0c05: 'SMBus',
  0x1200: 'accelerator',
};

const CLASSES: readonly string[] = [
  'old device',
  'storage',
  'network',
  'display',
  'multimedia',
  'memory',
  'bridge',
  'communication',
  'system device',
  'input',
  'docking station',
  'processor',
  'serial bus',
  'wireless',
  'intelligent I/O',
  'satellite',
  'encryption',
  'signal processing',
  'accelerator',
];

/** A name for a class code of 24 bits. */
export function pciClassName(classCode: number): string {
  return SUBCLASSES[classCode >> 8] ?? CLASSES[classCode >> 16] ?? 'other';
}
