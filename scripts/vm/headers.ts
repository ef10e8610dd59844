/** Builds modules for the guest's kernel, against its headers in the cache. */

import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dependencies, download, makeFolder, unpack } from './debian.ts';
import { VmError } from './error.ts';
import type { VmKernel } from './kernel.ts';
import { findTool, needTool, runTool } from './tools.ts';

/** The reason why modules for the kernel can't be built without a download or an installation, or null. */
export function modulesUnavailable(kernel: VmKernel): string | null {
  for (const tool of ['make', 'gcc']) if (findTool(tool) === null) return `${tool} is not installed (Debian: ${tool})`;
  return existsSync(headersFolder(kernel)) ? null : `no headers of ${kernel.release}: npm run vm -- --prepare`;
}

/** Downloads the kernel's headers into its folder, unless they exist. `log` receives a line per step. */
export async function fetchHeaders(kernel: VmKernel, log: (line: string) => void): Promise<void> {
  const folder = headersFolder(kernel);
  if (existsSync(folder)) return;
  const { release } = kernel;
  const main = `linux-headers-${release}`;
  const parts = (await dependencies(main)).filter((name) => /^linux-(headers-.*-common|kbuild-.*)$/.test(name));
  if (parts.length !== 2) {
    throw new VmError('ERR_VM_KERNEL', `apt has no headers for ${release}; --prepare downloads the current kernel`);
  }
  await makeFolder(folder, async (work) => {
    log(`downloading ${[main, ...parts].join(', ')} through apt`);
    for (const file of await download([main, ...parts], work)) {
      await unpack(file, work);
      rmSync(file);
    }
    // Debian's Makefile includes the path of the installed package.
    const common = join(
      folder,
      'usr',
      'src',
      parts.find((name) => name.endsWith('-common'))!,
    );
    writeFileSync(join(work, 'usr', 'src', main, 'Makefile'), `include ${join(common, 'Makefile')}\n`);
  });
}

/**
 * Builds a module in a temporary copy of its folder.
 *
 * @param source The folder with the module's `Kbuild` and sources.
 * @param name The module's name without `.ko`.
 * @param into The folder that receives the module. @returns The path of the module.
 */
export async function buildModule(kernel: VmKernel, source: string, name: string, into: string): Promise<string> {
  const make = needTool('make', 'make');
  needTool('gcc', 'gcc');
  const work = mkdtempSync(join(tmpdir(), 'dmapool-module-'));
  try {
    cpSync(source, work, { recursive: true });
    const headers = join(headersFolder(kernel), 'usr', 'src', `linux-headers-${kernel.release}`);
    // The module needs no type information (BTF), which only pahole can generate.
    await runTool(make, ['-s', '-C', headers, `M=${work}`, 'CONFIG_DEBUG_INFO_BTF_MODULES=', 'modules']);
    const file = join(into, `${name}.ko`);
    cpSync(join(work, `${name}.ko`), file);
    return file;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function headersFolder(kernel: VmKernel): string {
  return join(kernel.folder, 'headers');
}
