/**
 * dmapool/pci: a PCI function as drivers use it, on any platform.
 *
 * @module dmapool/pci
 * @packageDocumentation
 */
export type { AccessWidth, BarInfo, InterruptBackend, InterruptKind, PciBackend, RawConfigSpace } from './backend.ts';
export type { Bar, BarWindow } from './bar.ts';
export type { ConfigSpace, PciCapability } from './config-space.ts';
export { PciError, type PciErrorCode, PciGoneError } from './error.ts';
export { PciFunction, type PciIdentity, type PciOpenOptions } from './function.ts';
export type { InterruptOptions, Interrupts, InterruptWaitOptions } from './interrupts.ts';
export { PCI_CAPABILITY, PCI_COMMAND, PCI_CONFIG, PCI_STATUS } from './registers.ts';
export { waitFor, type Truthy, type WaitForOptions } from './wait.ts';
export type { DmaStopped, DmaStopReason, StopDmaOptions } from './stop.ts';
