/** Helpers of the tests of the network card: machines with pairs of cards, each pair on its own hub. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { CoherentAllocator } from 'dmapool';
import { E1000, type E1000Options, type Packet } from 'dmapool/drivers/e1000';
import type { PciFunction, PciOpenOptions } from 'dmapool/pci';
import type { QemuMachine, QemuMachineOptions } from 'dmapool/qemu';
import { RecordingLog } from '../../support/log.ts';
import { startMachine } from '../../qemu/qemu.ts';

/** The address that QEMU gives card `i`. */
export function macOf(i: number): string {
  return `52:54:00:00:00:${i.toString(16).padStart(2, '0')}`;
}

/** A machine with `count` cards `nic0` ...: 0 and 1 are joined, 2 and 3, and so on. */
export async function machineWithCards(
  t: TestContext,
  count = 2,
  options: Partial<QemuMachineOptions> = {},
): Promise<QemuMachine> {
  const cards = Array.from({ length: count }, (_, i) => i);
  return startMachine(t, {
    ...options,
    netdevs: cards.map((i) => ({ type: 'hubport', id: `net${String(i)}`, hubid: i >> 1 })),
    devices: [
      ...cards.map((i) => ({ driver: 'e1000', id: `nic${String(i)}`, netdev: `net${String(i)}`, mac: macOf(i) })),
      ...(options.devices ?? []),
    ],
  });
}

/** A card with its function, machine and driver. */
export interface OpenCard {
  readonly pci: PciFunction;
  readonly nic: E1000;
  readonly log: RecordingLog;
}

export async function openCard(
  machine: QemuMachine,
  which: number,
  options: E1000Options = {},
  pciOptions: PciOpenOptions = {},
): Promise<OpenCard> {
  const log = new RecordingLog();
  const pci = await machine.open(`nic${String(which)}`, { log, ...pciOptions });
  try {
    return { pci, nic: await E1000.open(pci, options), log };
  } catch (error) {
    await pci.close();
    throw error;
  }
}

/** Two joined cards. */
export async function openPair(
  t: TestContext,
  options: E1000Options = {},
  machineOptions: Partial<QemuMachineOptions> = {},
): Promise<{ machine: QemuMachine; a: OpenCard; b: OpenCard }> {
  const machine = await machineWithCards(t, 2, machineOptions);
  const [a, b] = await Promise.all([openCard(machine, 0, options), openCard(machine, 1, options)]);
  return { machine, a, b };
}

/**
 * Closes cards; checks that every buffer and every byte of the machine's memory was freed, and that no error was
 * logged.
 */
export async function closeAll(machine: QemuMachine, ...cards: OpenCard[]): Promise<void> {
  for (const { nic, pci, log } of cards) {
    await nic.close();
    assert.equal(nic.packets.active, 0);
    assert.equal(pci.device.readAttribute('pools'), undefined);
    await pci.close();
    assert.equal(log.text, '');
  }
  assert.equal((machine.memory as CoherentAllocator & { bytesInUse: number }).bytesInUse, 0);
}

/** A packet of given bytes, ready to be sent. */
export function packetOf(nic: E1000, bytes: Uint8Array): Packet {
  const packet = nic.packets.alloc();
  packet.bytes.set(bytes);
  packet.length = bytes.length;
  return packet;
}

/** A broadcast packet's bytes, otherwise filled with a number. */
export function frame(length: number, fill: number, destination?: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(length).fill(fill);
  bytes.set(destination ?? new Uint8Array(6).fill(0xff));
  return bytes;
}

/** Receives copies until there are `count` or the time is over. */
export async function receiveCopies(nic: E1000, count: number, timeout = 5000): Promise<Uint8Array[]> {
  const copies: Uint8Array[] = [];
  const batch: Packet[] = [];
  const end = performance.now() + timeout;
  while (copies.length < count) {
    const got = nic.receive(batch, count - copies.length);
    for (let i = 0; i < got; i++) copies.push(batch[i]!.bytes.slice(0, batch[i]!.length));
    nic.packets.freeBatch(batch, 0, got);
    const left = Math.ceil(end - performance.now());
    if (left <= 0) break;
    if (got === 0) await nic.waitForPackets({ timeout: left });
  }
  return copies;
}

/** Waits until a card receives: QEMU drops packets in the first second after the receiver is enabled. */
export async function warmUp(from: E1000, to: E1000): Promise<void> {
  const bytes = frame(60, 1);
  from.transmit([packetOf(from, bytes)]);
  assert.deepEqual(await receiveCopies(to, 1), [bytes]);
}
