/**
 * PCI resets, and the state that they clear: PCI Express 4.0, 6.6.2; ECN "Advanced Capabilities for Conventional PCI".
 */
import type { PciBackend } from './backend.ts';
import type { ConfigSpace, PciCapability } from './config-space.ts';
import { PCI_CAPABILITY, PCI_COMMAND, PCI_CONFIG } from './registers.ts';

/** Milliseconds until a function is ready after a function-level reset (PCI Express 4.0, 6.6.2). */
const FLR_TIME = 100;
/** Additional milliseconds for functions that are late. */
const READY_TIME = 1000;
/** Milliseconds for pending transactions to complete or time out. */
const PENDING_TIME = 1000;
const POLL_INTERVAL = 10;

/**
 * Offsets in the PCI Express capability: PCI Express Capabilities, Device Capabilities, Control, Status, and Control 2.
 */
const EXPRESS = {
  capabilities: 2,
  deviceCapabilities: 4,
  deviceControl: 8,
  deviceStatus: 10,
  deviceControl2: 0x28,
} as const;
/** PCI Express Capabilities: version. Device Control 2 exists from version 2 on. */
const EXPRESS_VERSION = 0xf;
/**
 * Function Level Reset: in Device Capabilities (PCI Express 4.0, 7.5.3.3), and Initiate in Device Control (7.5.3.4).
 */
const EXPRESS_FLR_CAPABLE = 1 << 28;
const EXPRESS_INITIATE_FLR = 1 << 15;
/** Device Status: Transactions Pending. */
const EXPRESS_PENDING = 1 << 5;
/** Advanced Features: AF Capabilities, AF Control, AF Status. */
const AF_CAPABILITIES = 3;
const AF_CONTROL = 4;
const AF_STATUS = 5;
const AF_FLR_CAPABLE = 2;
const AF_INITIATE_FLR = 1;
const AF_PENDING = 1;
/** Header registers that a reset clears, without the command register: BARs, interrupt line and so on. */
const HEADER_WORDS: readonly number[] = [0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x3c];
/** MSI and MSI-X: Message Control (PCI 3.0, 6.8.1.3 and 6.8.2.3). */
const MESSAGE_CONTROL = 2;
const MSI_64 = 1 << 7;
const MSI_MASKS = 1 << 8;
const MSIX_ENABLE = 1 << 15;
const MSIX_MASK_ALL = 1 << 14;
const MSIX_LAST_ENTRY = 0x7ff;
/** MSI-X: Table Offset and BIR (PCI 3.0, 6.8.2.4). */
const MSIX_TABLE = 4;
const MSIX_BIR = 7;
/** 32-bit words of a table entry: address, upper address, data, vector control (PCI 3.0, 6.8.2). */
const MSIX_ENTRY_WORDS = 4;

interface Register {
  readonly offset: number;
  readonly width: 16 | 32;
  readonly value: number;
}

/** Configuration registers that a reset clears. */
export interface SavedState {
  readonly command: number;
  readonly header: readonly Register[];
  /** Device Control, MSI, and last the register that enables MSI. */
  readonly capabilities: readonly Register[];
}

export async function saveState(config: ConfigSpace): Promise<SavedState> {
  const save = async (offset: number, width: 16 | 32): Promise<Register> => {
    const value = width === 16 ? await config.read16(offset) : await config.read32(offset);
    return { offset, width, value };
  };
  const command = await config.read16(PCI_CONFIG.command);
  const header = await Promise.all(HEADER_WORDS.map((offset) => save(offset, 32)));
  const capabilities: Register[] = [];
  const list = await config.capabilities();
  const express = find(list, PCI_CAPABILITY.pciExpress);
  if (express !== undefined) {
    capabilities.push(await save(express + EXPRESS.deviceControl, 16));
    const version = (await config.read16(express + EXPRESS.capabilities)) & EXPRESS_VERSION;
    if (version >= 2) capabilities.push(await save(express + EXPRESS.deviceControl2, 16));
  }
  const msi = find(list, PCI_CAPABILITY.msi);
  if (msi !== undefined) {
    const control = await save(msi + MESSAGE_CONTROL, 16);
    const words = (control.value & MSI_64) === 0 ? 1 : 2;
    const data = msi + 4 + words * 4;
    for (let i = 1; i <= words; i++) capabilities.push(await save(msi + i * 4, 32));
    capabilities.push(await save(data, 16));
    if ((control.value & MSI_MASKS) !== 0) capabilities.push(await save(data + 4, 32));
    capabilities.push(control);
  }
  return { command, header, capabilities };
}

/** Restores the registers that a reset cleared, with bus mastering off. */
export async function restoreState(config: ConfigSpace, state: SavedState): Promise<void> {
  for (const { offset, value } of state.header) await config.write32(offset, value);
  await config.write16(PCI_CONFIG.command, state.command & ~PCI_COMMAND.busMaster);
  for (const { offset, width, value } of state.capabilities) {
    if (width === 16) await config.write16(offset, value);
    else await config.write32(offset, value);
  }
}

/** MSI-X state, including its table in a BAR. */
export interface SavedMsix {
  readonly capability: number;
  readonly control: number;
  readonly bar: number;
  readonly offset: number;
  readonly words: readonly number[];
}

/** The part of a backend that accesses the MSI-X table. */
export type TableBackend = Pick<PciBackend, 'bars' | 'removed' | 'read' | 'write' | 'flush'>;

/** Returns null if MSI-X is disabled: its table is then unused. */
export async function saveMsix(config: ConfigSpace, backend: TableBackend): Promise<SavedMsix | null> {
  const capability = find(await config.capabilities(), PCI_CAPABILITY.msix);
  if (capability === undefined || backend.removed.aborted) return null;
  const control = await config.read16(capability + MESSAGE_CONTROL);
  if ((control & MSIX_ENABLE) === 0) return null;
  const place = await config.read32(capability + MSIX_TABLE);
  const index = place & MSIX_BIR;
  const offset = (place & ~MSIX_BIR) >>> 0;
  const count = ((control & MSIX_LAST_ENTRY) + 1) * MSIX_ENTRY_WORDS;
  const bar = backend.bars.find((candidate) => candidate.index === index);
  if (bar?.kind !== 'memory' || offset + count * 4 > bar.size) return null;
  const words: number[] = [];
  for (let i = 0; i < count; i++) words.push(await backend.read(index, offset + i * 4, 32));
  return { capability, control, bar: index, offset, words };
}

/** Restores MSI-X. Call it after {@link restoreState}: the function must decode its memory. */
export async function restoreMsix(config: ConfigSpace, backend: TableBackend, saved: SavedMsix): Promise<void> {
  const { capability, control, bar, offset, words } = saved;
  // Mask all vectors until the table is complete.
  await config.write16(capability + MESSAGE_CONTROL, control | MSIX_MASK_ALL);
  words.forEach((word, i) => {
    backend.write(bar, offset + i * 4, 32, word);
  });
  await backend.flush();
  await config.write16(capability + MESSAGE_CONTROL, control);
}

/**
 * Performs a function-level reset. Disables bus mastering first and waits for pending transactions, because a
 * completion that arrives after the reset would match a new request (PCI Express 5.0, 6.6.2, implementation note
 * "Avoiding Data Corruption From Stale Completions"). After the time limit it resets anyway: the pending transactions
 * time out during the reset.
 *
 * @returns false when the function has no function-level reset.
 */
export async function functionLevelReset(config: ConfigSpace): Promise<boolean> {
  const list = await config.capabilities();
  const express = find(list, PCI_CAPABILITY.pciExpress);
  const advanced = find(list, PCI_CAPABILITY.advancedFeatures);
  // All ones is the value of an absent function, not a capability: without a reset there is no proof.
  const offers = (value: number, bit: number, ones: number): boolean => value !== ones && (value & bit) !== 0;
  if (
    express !== undefined &&
    offers(await config.read32(express + EXPRESS.deviceCapabilities), EXPRESS_FLR_CAPABLE, 0xffff_ffff)
  ) {
    await config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.busMaster);
    await until(PENDING_TIME, async () => {
      return ((await config.read16(express + EXPRESS.deviceStatus)) & EXPRESS_PENDING) === 0;
    });
    // The bit always reads 0 (7.5.3.4). A read of all ones must not prevent the write.
    const control = await config.read16(express + EXPRESS.deviceControl);
    await config.write16(express + EXPRESS.deviceControl, control | EXPRESS_INITIATE_FLR);
  } else if (advanced !== undefined && offers(await config.read8(advanced + AF_CAPABILITIES), AF_FLR_CAPABLE, 0xff)) {
    await config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.busMaster);
    await until(PENDING_TIME, async () => ((await config.read8(advanced + AF_STATUS)) & AF_PENDING) === 0);
    await config.write8(advanced + AF_CONTROL, AF_INITIATE_FLR);
  } else {
    return false;
  }
  await sleep(FLR_TIME);
  // A function reads all ones until it is ready. After the time limit checkPresent() throws.
  await until(READY_TIME, () =>
    config.checkPresent().then(
      () => true,
      () => false,
    ),
  );
  await config.checkPresent();
  return true;
}

function find(list: readonly PciCapability[], id: number): number | undefined {
  return list.find((capability) => capability.id === id)?.offset;
}

/** Polls a condition until it is true or the time limit has passed. */
async function until(time: number, condition: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + time;
  while (!(await condition()) && performance.now() < end) await sleep(POLL_INTERVAL);
}

function sleep(time: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, time));
}
