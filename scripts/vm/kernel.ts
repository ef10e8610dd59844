/**
 * Downloads the guest's kernel, its modules and busybox from Debian through apt, and caches them.
 *
 *     $XDG_CACHE_HOME/dmapool-vm/v2-6.12.117+deb12-amd64/
 *         vmlinux                             the kernel, uncompressed
 *         busybox                             statically linked
 *         lib/modules/6.12.117+deb12-amd64/   the modules, uncompressed
 *         headers/                            the kernel's headers (headers.ts)
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder, dependencies, download, makeFolder, unpack } from './debian.ts';
import { VmError } from './error.ts';
import { findTool, needTool, runTool } from './tools.ts';

/** The kernel series of Debian 12: its own, and the one in its security archive. */
export const KERNEL_SERIES = ['6.1', '6.12'] as const;
export type KernelSeries = (typeof KERNEL_SERIES)[number];

export const DEFAULT_KERNEL: KernelSeries = '6.12';

/** A kernel in the cache, ready to boot. */
export interface VmKernel {
  /** The output of `uname -r` in the guest. */
  readonly release: string;
  /** Its folder in the cache. */
  readonly folder: string;
}

/** Version of the cache's folder layout. Increment it when the content of these folders changes. */
const RECIPE = 'v2';

/** Modules, and folders of modules, to unpack: drivers of QEMU's devices, and the needs of user-space drivers. */
const MODULES: readonly string[] = [
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
  'fs/fuse',
  'fs/jbd2',
  'fs/mbcache',
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
  'drivers/net/mii',
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

/** Modules that exist in one series only. */
const MODULES_OF: Readonly<Record<KernelSeries, readonly string[]>> = { '6.1': ['fs/fscache'], '6.12': [] };

/** Checks the name of a series; by default that of DMAPOOL_VM_KERNEL, else {@link DEFAULT_KERNEL}. */
export function kernelSeries(name = process.env['DMAPOOL_VM_KERNEL']): KernelSeries {
  if (name === undefined || name === '') return DEFAULT_KERNEL;
  const series = KERNEL_SERIES.find((known) => known === name);
  if (series === undefined) {
    throw new VmError('ERR_VM_OPTION', `the kernel must be ${KERNEL_SERIES.join(' or ')}, not ${name}`);
  }
  return series;
}

/** Returns the newest kernel of a series in the cache, or null. */
export function cachedKernel(series: KernelSeries): VmKernel | null {
  const parent = cacheFolder();
  let names: string[];
  try {
    names = readdirSync(parent);
  } catch {
    return null;
  }
  const newest = names
    .filter((name) => name.startsWith(`${RECIPE}-${series}.`))
    .sort(new Intl.Collator('en', { numeric: true }).compare)
    .at(-1);
  return newest === undefined ? null : { release: newest.slice(RECIPE.length + 1), folder: join(parent, newest) };
}

/** Downloads Debian's current kernel of a series to the cache, unless it exists there. `log` receives a line per step. */
export async function fetchKernel(series: KernelSeries, log: (line: string) => void): Promise<VmKernel> {
  if (process.arch !== 'x64' || process.platform !== 'linux') {
    throw new VmError(
      'ERR_VM_KERNEL',
      `the virtual machine needs Linux on x86-64, not ${process.platform}-${process.arch}`,
    );
  }
  const kernelPackage = await currentKernelPackage(series);
  const release = kernelPackage.slice('linux-image-'.length);
  const folder = join(cacheFolder(), `${RECIPE}-${release}`);
  if (!existsSync(folder)) {
    await makeFolder(folder, async (work) => {
      log(`downloading ${kernelPackage} and busybox-static through apt`);
      const packages = await download([kernelPackage, 'busybox-static'], work);
      log('unpacking');
      await unpackModules(packages[0]!, series, release, work);
      await unpack(packages[1]!, work, ['./bin/busybox', './usr/bin/busybox']);
      const busybox = join(work, 'busybox');
      renameSync(join(work, findBusybox(work)), busybox);
      await runTool(busybox, ['depmod', '-b', work, release]);
      const bzImage = readFileSync(join(work, 'boot', `vmlinuz-${release}`));
      writeFileSync(join(work, 'vmlinux'), await unpackKernel(bzImage, log));
      for (const path of [...packages, ...['boot', 'bin', 'usr'].map((name) => join(work, name))]) {
        rmSync(path, { recursive: true, force: true });
      }
    });
  }
  return { release, folder };
}

/** Finds the package of a series' current kernel. Either meta package may depend on it. */
async function currentKernelPackage(series: KernelSeries): Promise<string> {
  for (const meta of [`linux-image-${series}-amd64`, 'linux-image-amd64']) {
    const found = (await dependencies(meta)).find((name) => name.startsWith(`linux-image-${series}.`));
    if (found !== undefined) return found;
  }
  throw new VmError(
    'ERR_VM_KERNEL',
    `apt has no kernel ${series}: run apt-get update, with the package sources of Debian 12 and its security archive`,
  );
}

/** Unpacks the kernel image and the modules. Throws if the package lacks one of them. */
async function unpackModules(file: string, series: KernelSeries, release: string, work: string): Promise<void> {
  const root = `./lib/modules/${release}`;
  const modules = [...MODULES, ...MODULES_OF[series]].map((name) => `${root}/kernel/${name}`);
  const forms = modules.map((path) => [path, `${path}.ko`, `${path}.ko.xz`]);
  const tables = ['modules.builtin', 'modules.builtin.modinfo', 'modules.order'].map((name) => `${root}/${name}`);
  const image = `./boot/vmlinuz-${release}`;
  const missing = await unpack(file, work, [image, ...tables, ...forms.flat()]);
  const lost = [image, ...tables].filter((path) => missing.includes(path));
  lost.push(...forms.filter((each) => each.every((path) => missing.includes(path))).map(([path]) => path!));
  if (lost.length > 0) throw new VmError('ERR_VM_KERNEL', `${file} lacks ${lost.join(', ')}`);

  const packed = readdirSync(join(work, root), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ko.xz'))
    .map((path) => join(work, root, path));
  // Busybox's insmod and depmod do not decompress modules.
  if (packed.length > 0) await runTool(needTool('xz', 'xz-utils'), ['-d', '-T0', ...packed]);
}

function findBusybox(work: string): string {
  for (const path of ['bin/busybox', 'usr/bin/busybox']) {
    try {
      chmodSync(join(work, path), 0o755);
      return path;
    } catch {
      // The file has the other path.
    }
  }
  throw new VmError('ERR_VM_KERNEL', 'the package busybox-static contains no busybox');
}

/** The first 4 bytes of a zstd file, little-endian. */
const ZSTD_MAGIC = 0xfd2fb528;

/**
 * Returns the uncompressed kernel (ELF) of a bzImage. The setup header has the payload's offset and length
 * (Documentation/arch/x86/boot.rst); the last 4 bytes of the payload are the uncompressed size. QEMU boots the ELF file
 * by its PVH entry point, which avoids decompression in the guest.
 */
async function unpackKernel(bzImage: Buffer, log: (line: string) => void): Promise<Buffer> {
  const setupSectors = bzImage.readUInt8(0x1f1) || 4;
  const offset = (setupSectors + 1) * 512 + bzImage.readUInt32LE(0x248);
  const payload = bzImage.subarray(offset, offset + bzImage.readUInt32LE(0x24c) - 4);
  // Busybox's xz lacks the filter for x86 code (BCJ) of compressed kernels.
  const [tool, debianPackage] = payload.readUInt32LE() === ZSTD_MAGIC ? ['zstd', 'zstd'] : ['xz', 'xz-utils'];
  const path = findTool(tool);
  const vmlinux = path === null ? null : await filter(path, ['-dc'], payload);
  if (vmlinux?.toString('latin1', 0, 4) === '\x7fELF') return vmlinux;
  log(`the kernel stays compressed, so each boot takes longer: apt-get install ${debianPackage}, then --prepare again`);
  return bzImage;
}

/** Returns a program's output for an input, or null if the program fails. */
async function filter(path: string, args: readonly string[], input: Uint8Array): Promise<Buffer | null> {
  const child = spawn(path, args, { stdio: ['pipe', 'pipe', 'ignore'] });
  const parts: Buffer[] = [];
  child.stdout.on('data', (part: Buffer) => parts.push(part));
  // EPIPE if the program ends early. Its exit code reports the failure.
  child.stdin.on('error', () => undefined).end(input);
  await once(child, 'close');
  return child.exitCode === 0 ? Buffer.concat(parts) : null;
}

/** Returns the modules that the guest needs to mount the host's file system, dependencies first. */
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
  const builtin = readFileSync(join(root, 'modules.builtin'), 'utf8').split('\n');
  for (const name of ['virtio_pci', 'virtio_console', '9pnet_virtio', '9p', 'overlay']) {
    const isNamed = (path: string): boolean => path.endsWith(`/${name}.ko`);
    const path = [...dependencies.keys()].find(isNamed);
    if (path !== undefined) add(path);
    else if (!builtin.some(isNamed)) throw new VmError('ERR_VM_KERNEL', `${kernel.release} has no module ${name}`);
  }
  return ordered.map((path, index) => ({
    name: `${String(index).padStart(2, '0')}-${path.split('/').at(-1)!}`,
    content: readFileSync(join(root, path)),
  }));
}
