/**
 * The guest's kernel, its modules and busybox: Debian's own, fetched once through apt and kept in the user's cache.
 *
 *     $XDG_CACHE_HOME/dmapool-vm/v1-6.1.0-56-amd64/
 *         vmlinux      the kernel, unpacked, so that the guest need not do it
 *         busybox      static
 *         lib/modules/6.1.0-56-amd64/
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { VmError } from './error.ts';
import { findTool, needTool, runTool } from './tools.ts';

/** A kernel that is ready to boot. */
export interface VmKernel {
  /** As `uname -r` says it in the guest. */
  readonly release: string;
  /** The folder of the cache that holds it all. */
  readonly folder: string;
}

/** To be raised when what is in such a folder changes. */
const RECIPE = 'v1';

// The cloud flavour has neither 9p nor e1000.
const META_PACKAGE = 'linux-image-amd64';

/** The modules worth keeping: what a machine of QEMU's may have, and what user-space drivers need. */
const MODULE_FOLDERS: readonly string[] = [
  'arch',
  'block',
  'crypto',
  'lib',
  'mm',
  'virt',
  'net/9p',
  'net/core',
  'net/llc',
  'net/802',
  'net/packet',
  'net/xfrm',
  'fs/9p',
  'fs/configfs',
  'fs/ext4',
  'fs/fscache',
  'fs/fuse',
  'fs/jbd2',
  'fs/mbcache.ko',
  'fs/netfs',
  'fs/overlayfs',
  'drivers/ata',
  'drivers/block',
  'drivers/cdrom',
  'drivers/char',
  'drivers/dca',
  'drivers/i2c',
  'drivers/net/ethernet/intel',
  'drivers/net/mdio',
  'drivers/net/mdio.ko',
  'drivers/net/mii.ko',
  'drivers/net/phy',
  'drivers/nvme',
  'drivers/pps',
  'drivers/ptp',
  'drivers/scsi',
  'drivers/uio',
  'drivers/usb/common',
  'drivers/usb/core',
  'drivers/usb/host',
  'drivers/usb/storage',
  'drivers/vfio',
  'drivers/virtio',
];

function cacheFolder(): string {
  const base = process.env['XDG_CACHE_HOME'];
  return join(base === undefined || base === '' ? join(homedir(), '.cache') : base, 'dmapool-vm');
}

/** The newest kernel in the cache, or null. */
export function cachedKernel(): VmKernel | null {
  const parent = cacheFolder();
  let names: string[];
  try {
    names = readdirSync(parent);
  } catch {
    return null;
  }
  const newest = names
    .filter((name) => name.startsWith(`${RECIPE}-`))
    .sort(new Intl.Collator('en', { numeric: true }).compare)
    .at(-1);
  return newest === undefined ? null : { release: newest.slice(RECIPE.length + 1), folder: join(parent, newest) };
}

/** Fetches Debian's current kernel into the cache, unless it is there. `say` gets a line for each step. */
export async function fetchKernel(say: (line: string) => void): Promise<VmKernel> {
  if (process.arch !== 'x64' || process.platform !== 'linux') {
    throw new VmError(
      'ERR_VM_KERNEL',
      `the virtual machine needs Linux on x86-64, not ${process.platform}-${process.arch}`,
    );
  }
  const aptGet = needTool('apt-get', 'apt');
  const aptCache = needTool('apt-cache', 'apt');
  const dpkgDeb = needTool('dpkg-deb', 'dpkg');
  const tar = needTool('tar', 'tar');

  const kernelPackage = await currentKernelPackage(aptCache);
  const release = kernelPackage.slice('linux-image-'.length);
  const folder = join(cacheFolder(), `${RECIPE}-${release}`);
  const ready = readyKernel(folder, release);
  if (ready !== null) return ready;

  mkdirSync(cacheFolder(), { recursive: true });
  const work = mkdtempSync(join(cacheFolder(), 'new-'));
  try {
    // So that apt's own user may write there; it warns otherwise.
    chmodSync(work, 0o755);
    say(`fetching ${kernelPackage} and busybox-static through apt`);
    await runTool(aptGet, ['download', '-qq', kernelPackage, 'busybox-static'], work);
    const packages = readdirSync(work);
    const kernelFile = join(
      work,
      packages.find((name) => name.startsWith('linux-image-'))!,
    );
    const busyboxFile = join(
      work,
      packages.find((name) => name.startsWith('busybox-static'))!,
    );

    say('unpacking');
    const kept = MODULE_FOLDERS.map((name) => `./lib/modules/${release}/kernel/${name}`);
    const tables = ['modules.builtin', 'modules.builtin.modinfo', 'modules.order'];
    await unpack(dpkgDeb, tar, kernelFile, work, [
      `./boot/vmlinuz-${release}`,
      ...kept,
      ...tables.map((name) => `./lib/modules/${release}/${name}`),
    ]);
    await unpack(dpkgDeb, tar, busyboxFile, work, ['./bin/busybox', './usr/bin/busybox']);
    renameSync(join(work, findBusybox(work)), join(work, 'busybox'));
    const busybox = join(work, 'busybox');
    await runTool(busybox, ['depmod', '-b', work, release]);
    const bzImage = readFileSync(join(work, 'boot', `vmlinuz-${release}`));
    writeFileSync(join(work, 'vmlinux'), await unpackKernel(bzImage, say));
    for (const name of [...packages, 'boot', 'bin', 'usr']) rmSync(join(work, name), { recursive: true, force: true });
    return finish(work, folder, release);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function currentKernelPackage(aptCache: string): Promise<string> {
  const answer = await runTool(aptCache, ['depends', META_PACKAGE]).catch(() => '');
  const match = /^\s*Depends:\s*(linux-image-\d\S*)$/m.exec(answer);
  if (match === null) {
    throw new VmError(
      'ERR_VM_KERNEL',
      `apt does not know ${META_PACKAGE}: run apt-get update, with Debian's package sources`,
    );
  }
  return match[1]!;
}

function readyKernel(folder: string, release: string): VmKernel | null {
  try {
    readFileSync(join(folder, 'busybox'));
    return { release, folder };
  } catch {
    return null;
  }
}

/** The parts of a package that are there; it is fine for some of them not to be. */
async function unpack(dpkgDeb: string, tar: string, file: string, into: string, paths: string[]): Promise<void> {
  const source = spawn(dpkgDeb, ['--fsys-tarfile', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  const sink = spawn(tar, ['-x', '-C', into, '--no-same-owner', ...paths], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  // tar may be gone before all of it arrived; its exit code says so.
  sink.stdin.on('error', () => undefined);
  source.stdout.pipe(sink.stdin);
  let said = '';
  source.stderr.on('data', (data: Buffer) => (said += data.toString()));
  sink.stderr.on('data', (data: Buffer) => (said += data.toString()));
  await Promise.all([once(source, 'close'), once(sink, 'close')]);
  const missing = said.split('\n').filter((line) => !/Not found in archive|previous errors|^$/.test(line));
  if (source.exitCode !== 0 || missing.length > 0) {
    throw new VmError('ERR_VM_KERNEL', `${file} can't be unpacked: ${said.trim()}`);
  }
}

function findBusybox(work: string): string {
  for (const path of ['bin/busybox', 'usr/bin/busybox']) {
    try {
      chmodSync(join(work, path), 0o755);
      return path;
    } catch {
      // The other one.
    }
  }
  throw new VmError('ERR_VM_KERNEL', 'the package busybox-static holds no busybox');
}

/**
 * The kernel proper inside a bzImage (Documentation/arch/x86/boot.rst): its place is in the setup header, and it is
 * followed by its unpacked size. QEMU starts it by its PVH entry, which saves unpacking it in the guest.
 */
async function unpackKernel(bzImage: Buffer, say: (line: string) => void): Promise<Buffer> {
  const setupSectors = bzImage.readUInt8(0x1f1) || 4;
  const offset = (setupSectors + 1) * 512 + bzImage.readUInt32LE(0x248);
  const payload = bzImage.subarray(offset, offset + bzImage.readUInt32LE(0x24c) - 4);
  // Busybox's own does not know the filter for machine code that kernels are packed with.
  const xz = findTool('xz');
  const vmlinux = xz === null ? null : await filter(xz, ['-dc'], payload);
  if (vmlinux?.toString('latin1', 0, 4) === '\x7fELF') return vmlinux;
  say('the kernel stays packed, which costs some seconds at each boot: apt-get install xz-utils, and fetch it again');
  return bzImage;
}

/** What the program makes of the input, or null if it fails. */
async function filter(path: string, args: readonly string[], input: Uint8Array): Promise<Buffer | null> {
  const child = spawn(path, args, { stdio: ['pipe', 'pipe', 'ignore'] });
  const parts: Buffer[] = [];
  child.stdout.on('data', (part: Buffer) => parts.push(part));
  // It may end without reading all; its exit code tells.
  child.stdin.on('error', () => undefined).end(input);
  await once(child, 'close');
  return child.exitCode === 0 ? Buffer.concat(parts) : null;
}

/** Puts the finished folder in place; if somebody else was faster, theirs is as good. */
function finish(work: string, folder: string, release: string): VmKernel {
  try {
    renameSync(work, folder);
  } catch (error) {
    if (readyKernel(folder, release) === null) throw error;
  }
  return { release, folder };
}

/** The modules that the guest needs to reach the host's file system, each after those that it depends on. */
export function bootModules(kernel: VmKernel): { readonly name: string; readonly content: Buffer }[] {
  const root = join(kernel.folder, 'lib', 'modules', kernel.release);
  const dependencies = new Map<string, string[]>();
  for (const line of readFileSync(join(root, 'modules.dep'), 'utf8').split('\n')) {
    const [path, rest] = line.split(':');
    if (rest !== undefined) dependencies.set(path!, rest.trim().split(' ').filter(Boolean));
  }
  const ordered: string[] = [];
  const add = (path: string): void => {
    if (ordered.includes(path)) return;
    for (const dependency of dependencies.get(path) ?? []) add(dependency);
    ordered.push(path);
  };
  for (const name of ['virtio_pci', 'virtio_console', '9pnet_virtio', '9p', 'overlay']) {
    // One that is built into the kernel is in no table.
    const path = [...dependencies.keys()].find((known) => known.endsWith(`/${name}.ko`));
    if (path !== undefined) add(path);
  }
  return ordered.map((path, index) => ({
    name: `${String(index).padStart(2, '0')}-${path.split('/').at(-1)!}`,
    content: readFileSync(join(root, path)),
  }));
}
