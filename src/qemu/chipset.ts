/** Differences between QEMU's two PC machines: interrupt routing, hotplug ports, configuration space. */
import type { MachineBus } from './bus.ts';

export interface Chipset {
  /** Sets up interrupt routing and configuration space, as firmware would. */
  prepare(bus: MachineBus): Promise<void>;
  /** I/O APIC input of a slot and pin (1 to 4) on bus 0. */
  line(slot: number, pin: number): number;
  /** First port of ACPI PCI hotplug (docs/specs/acpi_pci_hotplug in QEMU's documentation). */
  readonly hotplugPort: number;
}

/** Mode port of the 8254 timer. Counter 0 interrupts 18 times a second; setting mode 0 stops it until a count is loaded. */
const TIMER_MODE = 0x43;
const STOP_TIMER = 0x30;

/** I/O APIC inputs for the four PIRQ lines; no other device of the machine uses them. */
const PIIX_LINES: readonly number[] = [10, 11, 5, 7];
/** PIIX3: 00:01.0, PIRQRC[A:D] (Intel 82371SB data sheet, 2.2.5). */
const PIIX_BRIDGE = { bus: 0, slot: 1, fn: 0 };
const PIIX_ROUTES = 0x60;

/**
 * MCH 00:00.0, PCIEXBAR: base of memory-mapped configuration space, enabled by bit 0, 256 buses (Intel 82Q35, 5.1.12).
 */
const MCH = { bus: 0, slot: 0, fn: 0 };
const PCIEXBAR = 0x60;
const ECAM_BASE = 0xb000_0000;
/**
 * ICH9 routes pins of slots below 25 to PIRQ[E:H], inputs 20 to 23 (Intel ICH9 data sheet, 5.9; QEMU's reset values).
 */
const ICH9_PIRQ_E = 20;

/** i440FX and PIIX3. */
const pc: Chipset = {
  async prepare(bus) {
    bus.writePort(TIMER_MODE, 8, STOP_TIMER);
    for (const [i, line] of PIIX_LINES.entries()) await bus.writeConfig(PIIX_BRIDGE, PIIX_ROUTES + i, 8, line);
  },
  line: (slot, pin) => PIIX_LINES[(slot + pin - 2 + 4) % 4]!,
  hotplugPort: 0xae00,
};

/** Q35 and ICH9. */
const q35: Chipset = {
  async prepare(bus) {
    bus.writePort(TIMER_MODE, 8, STOP_TIMER);
    await bus.writeConfig(MCH, PCIEXBAR + 4, 32, 0);
    await bus.writeConfig(MCH, PCIEXBAR, 32, ECAM_BASE + 1);
    bus.useEcam(ECAM_BASE);
  },
  line: (slot, pin) => ICH9_PIRQ_E + ((slot + pin - 1) % 4),
  hotplugPort: 0x0cc0,
};

export const CHIPSETS: { readonly pc: Chipset; readonly q35: Chipset } = { pc, q35 };
