/** Registers of every PCI function. PCI Local Bus Specification 3.0, chapter 6; PCI Express Base 4.0, chapter 7. */

/** Offsets in the type 0 configuration header. */
export const PCI_CONFIG: {
  readonly vendorId: 0x00;
  readonly deviceId: 0x02;
  readonly command: 0x04;
  readonly status: 0x06;
  readonly revision: 0x08;
  readonly classCode: 0x09;
  readonly headerType: 0x0e;
  readonly bar0: 0x10;
  readonly subsystemVendorId: 0x2c;
  readonly subsystemId: 0x2e;
  readonly capabilities: 0x34;
  readonly interruptLine: 0x3c;
  readonly interruptPin: 0x3d;
} = {
  vendorId: 0x00,
  deviceId: 0x02,
  command: 0x04,
  status: 0x06,
  revision: 0x08,
  classCode: 0x09,
  headerType: 0x0e,
  bar0: 0x10,
  subsystemVendorId: 0x2c,
  subsystemId: 0x2e,
  capabilities: 0x34,
  interruptLine: 0x3c,
  interruptPin: 0x3d,
};

/** Bits of the command register (PCI 3.0, 6.2.2). */
export const PCI_COMMAND: {
  readonly io: 0x1;
  readonly memory: 0x2;
  readonly busMaster: 0x4;
  readonly interruptDisable: 0x400;
} = { io: 0x1, memory: 0x2, busMaster: 0x4, interruptDisable: 0x400 };

/** Bits of the status register (PCI 3.0, 6.2.3). */
export const PCI_STATUS: { readonly interrupt: 0x8; readonly capabilities: 0x10 } = {
  interrupt: 0x8,
  capabilities: 0x10,
};

/** Capability IDs (PCI Code and ID Assignment Specification, section 2). */
export const PCI_CAPABILITY: {
  readonly powerManagement: 0x01;
  readonly msi: 0x05;
  readonly vendorSpecific: 0x09;
  readonly pciExpress: 0x10;
  readonly msix: 0x11;
  readonly advancedFeatures: 0x13;
} = { powerManagement: 0x01, msi: 0x05, vendorSpecific: 0x09, pciExpress: 0x10, msix: 0x11, advancedFeatures: 0x13 };

/** Vendor ID read from an absent function (PCI 3.0, 6.2.1). */
export const NO_VENDOR = 0xffff;

/** Bytes of conventional configuration space. PCI Express extends it. */
export const CONVENTIONAL_CONFIG_SIZE = 256;

/** Number of base address registers. A 64-bit BAR takes two. */
export const PCI_BARS = 6;
