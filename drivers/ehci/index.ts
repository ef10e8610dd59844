/**
 * dmapool/drivers/ehci: reference driver for EHCI USB host controllers, with USB mass storage on top.
 *
 *     MassStorage -> BulkOnlyTransport -> BulkPipe -> EndpointQueue -> AsyncSchedule -> controller
 *     storage.ts     bulk-only.ts         device.ts   queue.ts         schedule.ts
 *                               UsbDevice: control transfers, descriptors
 *                               EhciController: start-up, ports   TransferEngine: interrupts, pools
 *
 * Suggested reading order: structures.ts, queue.ts, schedule.ts, engine.ts, controller.ts, device.ts, bulk-only.ts,
 * storage.ts. Outside its folder the driver uses only `dmapool`, `dmapool/pci`, `dmapool/arguments` and `common/`.
 *
 * @module dmapool/drivers/ehci
 * @packageDocumentation
 */
export { DriverError } from '../common/error.ts';
export type { UsbBuffer } from './buffer.ts';
export { type ConnectOptions, EhciController, type EhciOptions } from './controller.ts';
export type {
  ConfigurationDescriptor,
  DeviceDescriptor,
  EndpointDescriptor,
  InterfaceDescriptor,
} from './descriptors.ts';
export type { BulkPipe, ControlSetup, TransferOptions, UsbDevice } from './device.ts';
export { ScsiError, UsbError, type UsbErrorCode } from './errors.ts';
export { MassStorage } from './storage.ts';
