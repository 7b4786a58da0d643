@echo off
rem Makes .venv beside this file and installs requirements.txt into it. Run again, it keeps a good
rem .venv and adds what is missing. Set PYTHON to the path of a python.exe to name the Python.
setlocal EnableExtensions DisableDelayedExpansion
rem A PYTHON that is relative counts from the folder where this was started.
if not defined PYTHON goto own_folder
for %%P in ("%PYTHON:"=%") do if exist "%%~fP" set "PYTHON=%%~fP"

:own_folder
rem From here on, names are relative: "call" would read a %% or ^ in this folder's path once more.
pushd "%~dp0"
set "VENV=.venv"
set "VENV_PYTHON=.venv\Scripts\python.exe"
if not exist requirements.txt goto no_requirements
rem Each of these makes pip install elsewhere, in part, or not at all; a mirror's address may stay.
for %%V in (TARGET PREFIX ROOT USER PYTHON DRY_RUN NO_DEPS) do set "PIP_%%V="

rem A half-made .venv has no pip that runs.
if not exist "%VENV_PYTHON%" goto find_python
"%VENV_PYTHON%" -I -c "import sys; sys.exit(sys.version_info < (3, 10))" >nul 2>&1
if %ERRORLEVEL% neq 0 goto find_python
"%VENV_PYTHON%" -I -m pip --version >nul 2>&1
if %ERRORLEVEL% neq 0 goto find_python
goto install

:find_python
set "OLD="
set "WITHOUT_VENV="
if defined PYTHON goto named_python
set "PY=py"
set "PY_OPTION=-3"
call :probe
if %ERRORLEVEL% equ 0 goto make_venv
set "PY=python"
set "PY_OPTION="
call :probe
if %ERRORLEVEL% equ 0 goto make_venv
goto no_python

:named_python
set "PY=%PYTHON:"=%"
set "PY_OPTION="
call :probe
if %ERRORLEVEL% equ 0 goto make_venv
if defined WITHOUT_VENV goto no_venv_module
if defined OLD goto named_old
echo installboto: PYTHON is "%PY%", which does not run; set it to the path of a python.exe of 3.10 or later, or unset it>&2
exit /b 1

:named_old
echo installboto: PYTHON is "%PY%", which is older than the 3.10 that is needed; set it to a newer one, or unset it>&2
exit /b 1

:no_python
if defined WITHOUT_VENV goto no_venv_module
if defined OLD goto python_too_old
echo installboto: no Python that runs; install 3.10 or later from https://www.python.org/downloads/, then run this again>&2
exit /b 1

:no_venv_module
echo installboto: "%WITHOUT_VENV%" has no venv module; install Python 3.10 or later from https://www.python.org/downloads/, then run this again>&2
exit /b 1

:python_too_old
echo installboto: Python 3.10 or later is needed and "%OLD%" is older; install a newer one from https://www.python.org/downloads/, then run this again>&2
exit /b 1

:make_venv
call "%PY%" %PY_OPTION% -I -m venv --clear "%VENV%"
if %ERRORLEVEL% neq 0 goto venv_failed
if not exist "%VENV_PYTHON%" goto venv_failed
goto install

:venv_failed
echo installboto: Python could not make "%VENV%"; remove that folder if it is there, then run this again>&2
exit /b 1

:install
rem -I: a PYTHONPATH that holds boto3 would make pip believe that it is installed already.
"%VENV_PYTHON%" -I -m pip install --quiet --disable-pip-version-check -r requirements.txt >"%VENV%\install.log" 2>&1
if %ERRORLEVEL% neq 0 goto pip_failed
"%VENV_PYTHON%" -I -c "import boto3, requests, dotenv" >>"%VENV%\install.log" 2>&1
if %ERRORLEVEL% neq 0 goto not_importable
echo Installed into .venv. Next: ".venv\Scripts\python.exe tests\sandbox.py" shows a whole run; for your own, fill in config.ini.
exit /b 0

:pip_failed
type "%VENV%\install.log" >&2
echo installboto: pip could not install requirements.txt; what it said stands above; run this again when that is mended>&2
exit /b 1

:not_importable
echo installboto: pip saw no error, but the packages can't be imported (%VENV%\install.log says why); look for target, prefix, root or dry-run in what "%VENV_PYTHON% -m pip config list" prints, or else remove .venv, then run this again>&2
exit /b 1

:no_requirements
echo installboto: no requirements.txt in "%CD%"; run the installboto.bat that lies beside export_csv.py, and not a link to it>&2
exit /b 1

rem Is this Python one to make .venv with? "call", as pyenv-win's python is a batch file.
:probe
call "%PY%" %PY_OPTION% -E -c "import sys" >nul 2>&1
if %ERRORLEVEL% neq 0 exit /b 1
call "%PY%" %PY_OPTION% -E -c "import sys; sys.exit(sys.version_info < (3, 10))" >nul 2>&1
if %ERRORLEVEL% neq 0 goto probed_old
call "%PY%" %PY_OPTION% -I -c "import venv; from ensurepip import bootstrap" >nul 2>&1
if %ERRORLEVEL% neq 0 goto probed_without_venv
exit /b 0

:probed_old
set "OLD=%PY%"
exit /b 1

:probed_without_venv
set "WITHOUT_VENV=%PY%"
exit /b 1
