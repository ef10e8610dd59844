#!/bin/busybox sh
# The guest's first process: mounts the host's file system and executes run.sh in it.
#
#   /                 an overlay: the host's root (9p, read-only) below a tmpfs for all writes
#   writable folders  the host's folders (9p)
#   /run/dmapool-vm   a tmpfs with busybox, run.sh, the settings and the command
bb=/bin/busybox

fail() {
  if [ -n "$control" ]; then echo "error $*" >&9; else echo "dmapool-vm: $*"; fi
  $bb poweroff -f
}

$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do
  $bb insmod "$module" || fail "the kernel can't load $module"
done

for port in /sys/class/virtio-ports/*; do
  read -r name <"$port/name"
  case $name in
  control) exec 9<>"/dev/${port##*/}" ;;
  kernel-log) log=/dev/${port##*/} ;;
  esac
done
control=/dev/fd/9
echo "stage kernel" >&9
$bb cat /dev/kmsg >"$log" 9>&- &
export KERNEL_LOG_PID=$!

. /job/settings
# Large messages: the cost of a transfer depends on the number of messages.
nine=trans=virtio,version=9p2000.L,msize=524288
$bb mount -t 9p -o "ro,cache=loose,$nine" root /host || fail "can't mount the host's file system"
$bb mount -t tmpfs -o size=90% tmpfs /writes
$bb mkdir /writes/upper /writes/work
$bb mount -t overlay -o lowerdir=/host,upperdir=/writes/upper,workdir=/writes/work overlay /root ||
  fail "can't mount the overlay of the host's file system"

cd /root || fail "can't enter the root"
$bb mkdir -p proc sys dev run
$bb mount -t proc proc proc
$bb mount -t sysfs sysfs sys
$bb mount -t debugfs debugfs sys/kernel/debug
$bb mount -t devtmpfs devtmpfs dev
$bb mkdir -p dev/pts dev/shm dev/hugepages
$bb mount -t devpts -o ptmxmode=0666 devpts dev/pts
$bb mount -t tmpfs tmpfs dev/shm
$bb mount -t hugetlbfs hugetlbfs dev/hugepages
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
  $bb ln -sf "${link#*:}" "dev/${link%%:*}"
done
$bb mount -t tmpfs tmpfs run
# The host's module settings do not apply: its blacklist must not exclude a driver of the guest.
$bb rm -rf etc/modprobe.conf etc/modprobe.d
$bb mkdir -p etc/modprobe.d

$bb mkdir -p run/dmapool-vm/bin "lib/modules/$RELEASE"
$bb mount -o bind "/host$KERNEL/lib/modules/$RELEASE" "lib/modules/$RELEASE" || fail "can't mount the modules"
# `shares` in the settings calls this function for each writable folder.
share() {
  $bb mkdir -p "./$2"
  $bb mount -t 9p -o "cache=mmap,$nine" "share$1" "./$2" || fail "can't mount $2"
}
shares

$bb cp /bin/busybox /job/run.sh /job/settings /job/command run/dmapool-vm/
echo "stage files" >&9
exec $bb switch_root /root /run/dmapool-vm/busybox sh /run/dmapool-vm/run.sh
