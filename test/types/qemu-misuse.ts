/** Wrong use of `dmapool/pci` and `dmapool/qemu` that must not compile; see `misuse.ts`. */
import { type Bar, type BarWindow, PciFunction, waitFor } from 'dmapool/pci';
import { QemuMachine } from 'dmapool/qemu';

export async function functions(fn: PciFunction): Promise<unknown[]> {
  // @ts-expect-error TS2673: a PCI backend opens functions
  new PciFunction();
  const registers = fn.bar(0);
  // @ts-expect-error TS2322: a write is posted: there is nothing to await
  const write: Bar['read32'] = registers.write32.bind(registers);
  // @ts-expect-error TS2322: register reads are promises
  const version: number = registers.read32(0);
  // @ts-expect-error TS2322: a 64-bit register is a bigint
  const cap: number = await registers.read64(0);
  // @ts-expect-error TS2345: a 64-bit register is written as a number or a bigint
  registers.write64(0, '1');
  const window: BarWindow = registers.window(0x40, 0x20);
  // @ts-expect-error TS2554: a window has a length
  registers.window(0x40);
  // @ts-expect-error TS2739: a window is no whole BAR
  const whole: Bar = window;
  const capabilities = await fn.config.findCapabilities(9);
  // @ts-expect-error TS2345: a value to write is a number
  await capabilities[0]?.write32(4, '1');
  // @ts-expect-error TS2345: a wait has a time limit
  await waitFor(() => true, {});
  // @ts-expect-error TS2345: a condition is a function
  await waitFor(true, { timeout: 1 });
  // The result is never false, null or undefined.
  const found: number = await waitFor((): number | null | undefined => 3, { timeout: 1 });
  // @ts-expect-error TS2820: the kinds of interrupts are checked
  await fn.interrupts({ kinds: ['msi-x'] });
  // @ts-expect-error TS2540: the state of removal is read-only
  fn.removed = AbortSignal.abort();
  return [write, version, cap, whole, found];
}

export async function machines(machine: QemuMachine): Promise<void> {
  // @ts-expect-error TS2322: devices are strings or objects
  await QemuMachine.start({ devices: [3] });
  // @ts-expect-error TS2561: option names are checked
  await QemuMachine.start({ memroy: 1 });
  // @ts-expect-error TS2673: the constructor is private; use start()
  new QemuMachine();
  // @ts-expect-error TS2345: the access widths are checked
  machine.writePort(0x80, 64, 1);
}
