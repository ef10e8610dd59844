/** Misuse of PCI functions and QEMU machines that must not compile: see misuse.ts. */
import { type Bar, PciFunction } from 'dmapool/pci';
import { QemuMachine } from 'dmapool/qemu';

export async function misuseOfFunctions(fn: PciFunction, machine: QemuMachine): Promise<unknown[]> {
  // @ts-expect-error TS2673: functions are opened by their home
  new PciFunction();
  const registers = fn.bar(0);
  // @ts-expect-error TS2322: a write is posted: there is nothing to await
  const write: Bar['read32'] = registers.write32.bind(registers);
  // @ts-expect-error TS2322: registers are read by await
  const version: number = fn.bar(0).read32(0);
  // @ts-expect-error TS2322: 64 bits are a bigint
  const cap: number = await fn.bar(0).read64(0);
  // @ts-expect-error TS2345: and are written as a number or a bigint
  fn.bar(0).write64(0, '1');
  // @ts-expect-error TS2820: kinds of interrupts are known
  await fn.interrupts({ kinds: ['msi-x'] });
  // @ts-expect-error TS2540: what was removed is not for others to say
  fn.removed = AbortSignal.abort();
  // @ts-expect-error TS2322: devices are texts or objects
  await QemuMachine.start({ devices: [3] });
  // @ts-expect-error TS2561: options are checked for spelling
  await QemuMachine.start({ memroy: 1 });
  // @ts-expect-error TS2673: machines are made by start
  new QemuMachine();
  // @ts-expect-error TS2345: widths are known
  machine.writePort(0x80, 64, 1);
  return [write, version, cap];
}
